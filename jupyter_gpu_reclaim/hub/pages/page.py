"""What all pages share: who may see what, headers that let a browser only show them, errors in words."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import tornado.web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jupyter_gpu_reclaim.core.fleet import FleetServer
from jupyter_gpu_reclaim.core.policy_text import BadRule
from jupyter_gpu_reclaim.core.wire import WireError
from jupyter_gpu_reclaim.hub.auth import READ, WRITE, Page
from jupyter_gpu_reclaim.hub.dry_run_process import DryRunBusy, DryRunFailed
from jupyter_gpu_reclaim.hub.pages import words
from jupyter_gpu_reclaim.hub.service import Service
from jupyter_gpu_reclaim.ports import BadCursor, LogUnavailable

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
# Nothing runs in these pages, and nothing is fetched from elsewhere: markup that got through could do nothing.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
AWAY = "The log's database does not answer. Nothing is lost: servers keep their rows. Try again."
WRONG_INPUT = (WireError, BadCursor, BadRule, ValueError)
TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(words.FILTERS)


class HubPage(Page):
    """Every page. Who has no scope sees the same pages, with nothing in them but what is their own."""

    def set_default_headers(self) -> None:
        """See `HEADERS`."""
        for name, value in HEADERS.items():
            self.set_header(name, value)

    @property
    def service(self) -> Service:
        """The parts."""
        return self.application.settings["service"]

    @property
    def now(self) -> datetime:
        """The instant for which the page is made."""
        return self.service.clock.now()

    def visible(self) -> Iterator[FleetServer]:
        """The servers that who asks may see."""
        return (server for server in self.service.fleet if self.actor.may_see(server.user))

    def need_read(self) -> None:
        """Raises 403 for who may not see the whole fleet."""
        self.need(self.actor.may_read_all, READ)

    def need_write(self) -> None:
        """Raises 403 for who may not give orders and set policies."""
        self.need(self.actor.may_write, WRITE)

    def show(self, template: str, **values: Any) -> None:
        """Reply with the page."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        page = TEMPLATES.get_template(template)
        actor = getattr(self, "actor", None)
        xsrf = self.xsrf_token.decode() if actor is not None else ""
        self.finish(page.render(values, actor=actor, now=self.now, here=self.address, xsrf=xsrf))

    def address(self, path: str = "", **query: Any) -> str:
        """The address of one of these pages; arguments that are None or "" are left out."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        where = self.application.settings["prefix"] + path
        return f"{where}?{urlencode(given, doseq=True)}" if given else where

    def whole(self, name: str, otherwise: int, most: int) -> int:
        """A number from 1 to `most` in the query. Raises ValueError."""
        text = self.get_query_argument(name, str(otherwise))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most}")
        return int(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A page that says what happened."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        told = getattr(error, "log_message", None)
        phrase = HTTPStatus(status_code).phrase
        message = told % error.args if told else getattr(error, "reason", None) or phrase
        self.show("error.html", code=status_code, phrase=phrase, message=message)

    def _handle_request_exception(self, error: BaseException) -> None:
        """What the domain raises, as HTTP, in one place."""
        try:
            raise as_http(error) from error
        except BaseException as told:  # raised, so that it is what tornado logs and hands to `write_error`
            super()._handle_request_exception(told)


def as_http(error: BaseException) -> BaseException:
    """The HTTP error that a domain's error is; others as they are."""
    if isinstance(error, LogUnavailable):
        logger.warning("%s", error)
        return tornado.web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, AWAY)
    if isinstance(error, DryRunBusy):
        return tornado.web.HTTPError(HTTPStatus.CONFLICT, str(error))
    if isinstance(error, DryRunFailed):
        return tornado.web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    if isinstance(error, WRONG_INPUT):
        return tornado.web.HTTPError(HTTPStatus.BAD_REQUEST, str(error))
    return error


class StyleHandler(tornado.web.RequestHandler):
    """The stylesheet, for anybody."""

    def get(self) -> None:
        """GET static/style.css."""
        self.set_header("Content-Type", "text/css; charset=utf-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "public, max-age=300")
        self.finish(STYLE)


STYLE = (HERE / "style.css").read_bytes()


def page_of(rows: list[Any], number: int, size: int) -> tuple[list[Any], int]:
    """The rows of page `number`, counted from 1, and how many pages there are."""
    pages = max(1, -(-len(rows) // size))
    number = min(number, pages)
    return rows[(number - 1) * size : number * size], pages
