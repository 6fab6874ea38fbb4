"""The REST API's part that reads the past: the log, its export, usage over time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import tornado.web
from jupyter_server.auth.decorator import authorized

from jupyter_gpu_reclaim.core.episodes import rows_of
from jupyter_gpu_reclaim.core.model import Event, Reason
from jupyter_gpu_reclaim.core.wire import WireError, from_json, to_json
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import export
from jupyter_gpu_reclaim.report import making, render
from jupyter_gpu_reclaim.report.carbon import NoIntensity
from jupyter_gpu_reclaim.server.handlers import LOG, Handler, whole_number, with_problems

MOST_ROWS = 1000


class PastHandler(Handler):
    """What these handlers share."""

    _track_activity = False

    @property
    def running(self) -> Any:
        """The extension. Raises `Problem` where it does not run."""
        _ = self.reconciler  # which raises it
        return self.extensionapp

    def argument(self, name: str, kind: type) -> Any:
        """A query argument as a value of the kind; None where it is not given. Raises `WireError`."""
        text = self.get_query_argument(name, None)
        return None if text is None else from_json(kind, text)

    def filters(self) -> dict[str, Any]:
        """What the query arguments ask of the log, of this server's user's rows. Raises `WireError`."""
        events = [from_json(Event, event) for event in self.get_query_arguments("event")]
        outcome = self.argument("outcome", str)
        if outcome is not None:
            try:
                events = rows_of(outcome, events)
            except ValueError as error:
                raise WireError(str(error)) from error
        return {
            "kernel_id": self.argument("kernel_id", str),
            "gpu": self.argument("gpu", str),
            "reason": self.argument("reason", Reason),
            "events": events,
            "owner": self.argument("user", str),
            "whose": self.extensionapp.owner,
            "label": self.argument("notebook", str),
            "mechanism": self.argument("mechanism", str),
            "since": self.argument("since", datetime),
            "until": self.argument("until", datetime),
        }


class LogHandler(PastHandler):
    """The log of transitions, newest first."""

    @tornado.web.authenticated
    @authorized("read", LOG)
    @with_problems
    async def get(self) -> None:
        """GET log."""
        extension = self.running
        limit = whole_number(self.get_query_argument("limit", "100"), "limit", 1, MOST_ROWS)
        after = self.argument("after", str)
        rows, following = await extension.reclaim_log.query(**self.filters(), after=after, limit=limit)
        self.finish({"transitions": to_json(rows), "next": following})


class ExportHandler(PastHandler):
    """The whole log, as far as filters let it pass, as a file."""

    @tornado.web.authenticated
    @authorized("read", LOG)
    @with_problems
    async def get(self) -> None:
        """GET log/export. Sent a page at a time; where the log fails in between the connection is cut, not ended."""
        extension = self.running
        kind = self.get_query_argument("format", "csv")
        if kind not in export.FORMATS:
            raise WireError(f"format must be one of {', '.join(export.FORMATS)}")
        pages = export.pages(extension.reclaim_log, **self.filters())
        page = await anext(pages)
        self.set_header("Content-Type", export.FORMATS[kind])
        self.set_header("Content-Disposition", f'attachment; filename="gpu-reclaim-log.{kind}"')
        self.write(export.head(kind) + export.text(kind, page))
        await self.flush()
        try:
            async for page in pages:
                self.write(export.text(kind, page))
                await self.flush()
        except LogUnavailable as error:
            self.log.warning("An export of the reclaim log was cut short: %s", error)
            self.request.connection.stream.close()


class HistoryHandler(PastHandler):
    """What was held on each GPU, over time."""

    @tornado.web.authenticated
    @authorized("read", LOG)
    @with_problems
    async def get(self) -> None:
        """GET history."""
        extension = self.running
        until = self.argument("until", datetime) or datetime.now(UTC)
        since = self.argument("since", datetime) or until - timedelta(hours=1)
        text = self.get_query_argument("step", None)
        step = None if text is None else whole_number(text, "step", 10, 366 * 86400)
        self.finish(await extension.usage.history(since, until, step))


class TotalsHandler(PastHandler):
    """What was won back."""

    @tornado.web.authenticated
    @authorized("read", LOG)
    @with_problems
    async def get(self) -> None:
        """GET totals."""
        extension = self.running
        self.finish(await extension.usage.totals(datetime.now().astimezone()))


class ReportHandler(PastHandler):
    """What a time brought."""

    @tornado.web.authenticated
    @authorized("read", LOG)
    @with_problems
    async def get(self) -> None:
        """GET report, as JSON or as a page."""
        extension = self.running
        until = self.argument("until", datetime) or datetime.now(UTC)
        since = self.argument("since", datetime) or until - timedelta(days=7)
        kind = self.get_query_argument("format", "json")
        if kind not in ("json", "html"):
            raise WireError("format must be one of json, html")
        try:
            assumptions = making.assumed(extension.report_settings())
            found = await making.make(extension.usage.store, since, until, assumptions)
        except (NoIntensity, ValueError) as error:
            raise WireError(str(error)) from error
        if kind == "html":
            self.finish(render.as_html(found), set_content_type="text/html; charset=utf-8")
        else:
            self.finish(to_json(found))


ROUTES = [
    (r"/gpu-reclaim/api/log", LogHandler),
    (r"/gpu-reclaim/api/log/export", ExportHandler),
    (r"/gpu-reclaim/api/history", HistoryHandler),
    (r"/gpu-reclaim/api/totals", TotalsHandler),
    (r"/gpu-reclaim/api/report", ReportHandler),
]
