"""What users' servers ask and tell. A server speaks for itself only: who it is, its token says, not its words."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import tornado.web

from jupyter_gpu_reclaim.core.fleet import MOST_GPUS, server_from
from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.core.policy_rules import Subject
from jupyter_gpu_reclaim.core.wire import WireError, from_json
from jupyter_gpu_reclaim.hub.auth import OwnServer
from jupyter_gpu_reclaim.hub.fleet import subject_of
from jupyter_gpu_reclaim.hub.service import Service, version
from jupyter_gpu_reclaim.ports import LogUnavailable

logger = logging.getLogger(__name__)

MOST_ROWS = 500
MOST_STATUS_BYTES = 512 << 10
MOST_BYTES = 1 << 50  # of one GPU, or moved at once
LONGEST_LABEL, LONGEST_DETAIL, LONGEST_NAME = 400, 8000, 255
PLAIN = re.compile(r"[\w .:+/()-]{0,96}", re.ASCII)  # what indices and JSON of every database take
NEWS_SECONDS = (10.0, 15.0)
"""A question without news is answered after a time between these: those that came at once, after a restart, do not come
at once again. Less than any proxy waits: the Hub's one in Python gives up after 20 s."""
CLOCKS_DIFFER = timedelta(hours=1)


class ServerHandler(OwnServer):
    """What these handlers share. Errors are {message}; none says anything of other users."""

    @property
    def service(self) -> Service:
        """The parts."""
        return self.application.settings["service"]

    def said(self) -> dict[str, Any]:
        """The body, and in it `server`, for which the token must be. Raises 400, 403."""
        try:
            body = json.loads(self.request.body, parse_constant=_no_number)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("server"), str):
            raise tornado.web.HTTPError(HTTPStatus.BAD_REQUEST, 'the body must be {"server": …} as JSON')
        if not self.actor.speaks_for(body["server"]):
            raise tornado.web.HTTPError(HTTPStatus.FORBIDDEN, "this token is not that of this server")
        return body

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Every error is {message}."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        message = getattr(error, "log_message", None) or HTTPStatus(status_code).phrase
        self.finish({"message": message})

    def _handle_request_exception(self, error: BaseException) -> None:
        """What the domain raises, as HTTP, in one place."""
        if isinstance(error, WireError | OverflowError):
            error = tornado.web.HTTPError(HTTPStatus.BAD_REQUEST, str(error).replace("%", "%%"))
        elif isinstance(error, LogUnavailable):
            logger.warning("%s", error)
            error = tornado.web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, "the log cannot be written now")
        super()._handle_request_exception(error)


class HealthHandler(tornado.web.RequestHandler):
    """Whether the process answers."""

    def get(self) -> None:
        """GET health."""
        self.finish({"status": "ok"})


class StatusHandler(ServerHandler):
    """A server's word on itself."""

    def put(self) -> None:
        """PUT api/status {server, node, status, waiting}."""
        if len(self.request.body) > MOST_STATUS_BYTES:
            raise tornado.web.HTTPError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a status this long is not taken"
            )
        body = self.said()
        node = from_json(str, body.get("node", ""))[:255]
        server = server_from(
            body.get("status"),
            body.get("waiting", {}),
            user=self.actor.name,
            server=body["server"],
            node=node,
            seen_at=self.service.clock.now(),
        )
        known = replace(server, groups=self.actor.groups, profile=self.actor.profiles.get(server.server))
        self.service.heard(known, body["status"])
        self.set_status(HTTPStatus.NO_CONTENT)

    def delete(self) -> None:
        """DELETE api/status {server}: it ends."""
        body = self.said()
        self.service.fleet.drop((self.actor.name, body["server"]))
        self.service.broker.kick()
        self.set_status(HTTPStatus.NO_CONTENT)


class TransitionsHandler(ServerHandler):
    """Rows of a server's log, for the fleet's."""

    async def post(self) -> None:
        """POST api/transitions {server, rows}. Answered once they are written; those that cannot be are named."""
        rows = self.said().get("rows")
        if not isinstance(rows, list) or len(rows) > MOST_ROWS:
            raise WireError(f"rows must be a list of at most {MOST_ROWS}")
        taken, refused = [], []
        for row in rows:
            try:
                taken.append(self._own(row))
            except (ValueError, OverflowError) as error:
                named = row.get("id") if isinstance(row, dict) else None
                refused.append({"id": named, "message": str(error)[:500]})
        if taken:
            await self.service.rows.take(taken)
        self.finish({"taken": len(taken), "refused": refused})

    def _own(self, data: Any) -> Transition:
        """The row, which must be about the user who pushes it. Raises 403 for another's name, and ValueError."""
        row = from_json(Transition, data)
        if row.owner not in ("", self.actor.name):
            raise tornado.web.HTTPError(HTTPStatus.FORBIDDEN, "a row names another user; none was written")
        if row.at > self.service.clock.now() + CLOCKS_DIFFER:
            raise WireError("at: it lies in the future; set the clock of the server's machine")
        counts = [
            *row.footprint.values(),
            *row.freed_bytes.values(),
            *row.unmovable.values(),
            row.moved_bytes or 0,
        ]
        if not all(0 <= count <= MOST_BYTES for count in counts) or len(counts) > 3 * MOST_GPUS:
            raise WireError("a number of bytes out of bounds")
        words = (
            row.id,
            row.kernel_id,
            row.episode_id,
            row.mechanism,
            row.framework,
            row.driver,
            *row.footprint,
        )
        if not row.id or not all(PLAIN.fullmatch(word) for word in words if word is not None):
            raise WireError("no id, or a word that is too long or not plain")
        return replace(
            row,
            owner=self.actor.name,
            label=row.label[:LONGEST_LABEL],
            detail=row.detail[:LONGEST_DETAIL],
            actor=row.actor[:LONGEST_NAME],
        )


class NewsHandler(ServerHandler):
    """What a server has to know, as soon as it is something else than it knows."""

    async def post(self) -> None:
        """POST api/news {server, version}. Answers {policy, pressure, orders, version}, at once or when it changes."""
        body = self.said()
        key, known = (self.actor.name, body["server"]), body.get("version")
        self._gone = self.service.bells.hang(key)
        try:
            async with asyncio.timeout(random.uniform(*NEWS_SECONDS)):
                while True:
                    self._gone.clear()
                    news = await self.service.news(self._subject(key))
                    if version(news) != known or self.request.connection.stream.closed():
                        break
                    await self._gone.wait()
        except TimeoutError:
            pass
        finally:
            self.service.bells.take_down(key, self._gone)
        self.finish({**news, "version": version(news)})

    def on_connection_close(self) -> None:
        """Whoever asked is gone; wait no longer."""
        if hasattr(self, "_gone"):
            self._gone.set()

    def _subject(self, key: tuple[str, str]) -> Subject:
        seen = self.service.fleet.get(key)
        known = Subject(user=key[0], server=key[1]) if seen is None else subject_of(seen)
        return replace(known, groups=self.actor.groups, profile=self.actor.profiles.get(key[1]))


class OrderHandler(ServerHandler):
    """A server's answer to an order."""

    async def post(self, order_id: str) -> None:
        """POST api/orders/{id} {server, answer}."""
        body = self.said()
        answer = from_json(str, body.get("answer"))[:2000]
        if not await self.service.answered(order_id, (self.actor.name, body["server"]), answer):
            raise tornado.web.HTTPError(HTTPStatus.NOT_FOUND, "this server has no such order open")
        self.set_status(HTTPStatus.NO_CONTENT)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number that every database takes")


ROUTES = [
    (r"health", HealthHandler),
    (r"api/status", StatusHandler),
    (r"api/transitions", TransitionsHandler),
    (r"api/news", NewsHandler),
    (r"api/orders/([\w-]+)", OrderHandler),
]
