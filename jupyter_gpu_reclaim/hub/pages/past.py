"""The past: the fleet's log with its filters, its export, and the report."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from jupyter_gpu_reclaim.core.episodes import rows_of
from jupyter_gpu_reclaim.core.model import Event, Reason
from jupyter_gpu_reclaim.hub.pages.page import HubPage
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import export
from jupyter_gpu_reclaim.report import making, render
from jupyter_gpu_reclaim.report.listing import moment

logger = logging.getLogger(__name__)

ROWS = 100
TEXTS = ("user", "notebook", "gpu", "kernel_id", "mechanism")
OUTCOMES = ("done", "refused", "failed", "kernel_gone", "lost")
LONGEST_REPORT = timedelta(days=400)


class PastPage(HubPage):
    """What log and export share."""

    def asked(self) -> dict[str, str]:
        """The filters as they stand in the query; who may not see all gets no other user's rows."""
        names = (*TEXTS, "event", "reason", "outcome", "since", "until")
        found = {name: self.get_query_argument(name, "")[:500] for name in names}
        return found if self.actor.may_read_all else {**found, "user": self.actor.name}

    def filters(self, asked: dict[str, str]) -> dict[str, Any]:
        """The same for the log. Raises ValueError."""
        events = [Event(asked["event"])] if asked["event"] else []
        if asked["outcome"]:
            events = rows_of(asked["outcome"], events)
        return {
            "owner": asked["user"] or None,
            "label": asked["notebook"] or None,
            "gpu": asked["gpu"] or None,
            "kernel_id": asked["kernel_id"] or None,
            "mechanism": asked["mechanism"] or None,
            "reason": Reason(asked["reason"]) if asked["reason"] else None,
            "events": events,
            "since": instant_in(asked["since"], self.now),
            "until": instant_in(asked["until"], self.now),
        }


class LogHandler(PastPage):
    """The log, newest first."""

    async def get(self) -> None:
        """GET log with any filter, and the cursor `after` of the page before."""
        asked = self.asked()
        after = self.get_query_argument("after", None)
        rows, following = await self.service.log.query(**self.filters(asked), after=after, limit=ROWS)
        self.show(
            "log.html",
            rows=rows,
            next=following,
            asked=asked,
            texts=TEXTS if self.actor.may_read_all else TEXTS[1:],
            choices={"event": list(Event), "reason": list(Reason), "outcome": OUTCOMES},
        )


class ExportHandler(PastPage):
    """All rows that pass the filters, as a file."""

    async def get(self) -> None:
        """GET log/export. Sent a page at a time; where the log fails in between the connection is cut, not ended."""
        kind = self.get_query_argument("format", "csv")
        if kind not in export.FORMATS:
            raise ValueError(f"format must be one of {', '.join(export.FORMATS)}")
        pages = export.pages(self.service.log, **self.filters(self.asked()))
        page = await anext(pages)
        self.set_header("Content-Type", export.FORMATS[kind])
        self.set_header("Content-Disposition", f'attachment; filename="gpu-reclaim-fleet-log.{kind}"')
        self.write(export.head(kind) + export.text(kind, page))
        await self.flush()
        try:
            async for page in pages:
                self.write(export.text(kind, page))
                await self.flush()
        except LogUnavailable as error:
            logger.warning("An export of the fleet's log was cut short: %s", error)
            self.request.connection.stream.close()


class ReportHandler(HubPage):
    """What a time brought, each figure with what it rests on."""

    async def get(self) -> None:
        """GET report?since=&until=."""
        self.need_read()
        texts = {name: self.get_query_argument(name, "")[:100] for name in ("since", "until")}
        until = instant_in(texts["until"], self.now) or self.now
        since = instant_in(texts["since"], self.now) or until - timedelta(days=7)
        if until - since > LONGEST_REPORT:
            raise ValueError(f"A report is about at most {LONGEST_REPORT.days} days.")
        found = await making.make(self.service.usage.store, since, until, making.assumed({}))
        self.show("report.html", report=found, texts=texts, render=render)


def instant_in(text: str, now: datetime) -> datetime | None:
    """`7d` ago, or ISO 8601; None for "". Raises ValueError."""
    if not text:
        return None
    try:
        return moment(text, now)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no instant: try 7d, 12h, or 2026-03-02T12:00Z") from None


ROUTES = [(r"log", LogHandler), (r"log/export", ExportHandler), (r"report", ReportHandler)]
