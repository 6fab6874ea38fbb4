"""The REST API: parse, one call, reply. Held to `openapi.yaml` by a test."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from http import HTTPStatus
from typing import Any

import tornado.web
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.handler import ExtensionHandlerMixin

from jupyter_gpu_reclaim.core.explain import SENTENCES
from jupyter_gpu_reclaim.core.model import Decision, Keep, Reason, Reclaim, Restore, Wait
from jupyter_gpu_reclaim.core.wire import WireError, to_json
from jupyter_gpu_reclaim.ports import BadCursor, LogUnavailable
from jupyter_gpu_reclaim.reconciler import (
    InvalidPin,
    NotObserved,
    Reconciler,
    UnknownAlarm,
    UnknownKernel,
)
from jupyter_gpu_reclaim.server.status_json import status_body

STATUS, KERNELS, LOG = "gpu_reclaim:status", "gpu_reclaim:kernels", "gpu_reclaim:log"
ALARMS = "gpu_reclaim:alarms"  # a resource of its own, so that an authorizer can keep it for administrators


class Problem(tornado.web.HTTPError):
    """An error as every one of our handlers replies it: a code, a word for programs, a sentence for people."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(status, reason=reason)
        self.message = message


PROBLEMS: dict[type[Exception], tuple[HTTPStatus, str]] = {
    WireError: (HTTPStatus.BAD_REQUEST, "bad_request"),
    BadCursor: (HTTPStatus.BAD_REQUEST, "bad_cursor"),
    InvalidPin: (HTTPStatus.BAD_REQUEST, "invalid_pin"),
    UnknownAlarm: (HTTPStatus.NOT_FOUND, "unknown_alarm"),
    UnknownKernel: (HTTPStatus.NOT_FOUND, "unknown_kernel"),
    NotObserved: (HTTPStatus.SERVICE_UNAVAILABLE, "not_observed"),
    LogUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "log_unavailable"),
}


def with_problems(method: Callable[..., Any]) -> Callable[..., Any]:
    """The one place where domain errors become HTTP errors."""

    @wraps(method)
    async def wrapped(self: Handler, **arguments: str) -> None:
        try:
            await method(self, **arguments)
        except tuple(PROBLEMS) as error:
            status, reason = next(answer for kind, answer in PROBLEMS.items() if isinstance(error, kind))
            raise Problem(status, reason, str(error)) from error

    return wrapped


class Handler(ExtensionHandlerMixin, APIHandler):
    """What all our handlers share. Subclasses name resource and action outright: `@authorized` remembers its first."""

    @property
    def reconciler(self) -> Reconciler:
        """The running reconciler. Raises `Problem` where there is none."""
        if self.extensionapp.reconciler is None:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "not_running", self.extensionapp.why_not_running)
        return self.extensionapp.reconciler

    @property
    def actor(self) -> str:
        """Who asks, for the log."""
        return self.current_user.username

    def decided(self, decision: Decision, accepted: bool) -> None:
        """Reply 202 with the decision, or 409 with the reason why it is not what was asked for."""
        status = self.reconciler.status()
        is_current = status.decisions.get(decision.kernel_id) == decision
        sentence = (
            status.explanations[decision.kernel_id] if is_current else SENTENCES[Reason(decision.reason)]
        )
        if not accepted:
            raise Problem(HTTPStatus.CONFLICT, decision.reason, sentence)
        self.set_status(HTTPStatus.ACCEPTED)
        self.finish({"decision": to_json(decision), "explanation": sentence})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Every error is {reason, message}."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        phrase = HTTPStatus(status_code)
        reason = getattr(error, "reason", None) or phrase.name.lower()
        message = getattr(error, "message", None) or getattr(error, "log_message", None) or phrase.phrase
        self.finish({"reason": reason, "message": message})


class StatusHandler(Handler):
    """What the last look found and what was decided."""

    _track_activity = False

    @tornado.web.authenticated
    @authorized("read", STATUS)
    @with_problems
    async def get(self) -> None:
        """GET status."""
        extension = self.extensionapp
        self.finish(status_body(self.reconciler.status(), extension.agents(), extension.hub()))


class ReclaimHandler(Handler):
    """A person's wish to take the GPU from a kernel."""

    @tornado.web.authenticated
    @authorized("write", KERNELS)
    @with_problems
    async def post(self, kernel_id: str) -> None:
        """POST kernels/{id}/reclaim."""
        decision = await self.reconciler.wish_reclaim(kernel_id, self.actor)
        self.decided(decision, isinstance(decision, Reclaim) or decision.reason is Reason.TURN)


class RestoreHandler(Handler):
    """A person's wish to have a kernel back on the GPU before its next cell."""

    @tornado.web.authenticated
    @authorized("write", KERNELS)
    @with_problems
    async def post(self, kernel_id: str) -> None:
        """POST kernels/{id}/restore."""
        decision = await self.reconciler.wish_restore(kernel_id, self.actor)
        under_way = decision == Keep(kernel_id, Reason.IN_FLIGHT)
        self.decided(decision, isinstance(decision, Restore | Wait) or under_way)


class PrefetchHandler(Handler):
    """A wish to have a kernel back on the GPU early, if that costs nobody anything: its user is coming back to it."""

    @tornado.web.authenticated
    @authorized("write", KERNELS)
    @with_problems
    async def post(self, kernel_id: str) -> None:
        """POST kernels/{id}/prefetch."""
        decision = await self.reconciler.wish_prefetch(kernel_id, self.actor)
        under_way = decision == Keep(kernel_id, Reason.IN_FLIGHT)
        self.decided(decision, isinstance(decision, Restore | Wait) or under_way)


class PinHandler(Handler):
    """A kernel's pin: until then it is not reclaimed."""

    @tornado.web.authenticated
    @authorized("write", KERNELS)
    @with_problems
    async def put(self, kernel_id: str) -> None:
        """PUT kernels/{id}/pin."""
        until = datetime.now(UTC) + span_in(self.get_json_body())
        await self.reconciler.pin(kernel_id, until, self.actor)
        self.finish({"pinned_until": to_json(until)})

    @tornado.web.authenticated
    @authorized("write", KERNELS)
    @with_problems
    async def delete(self, kernel_id: str) -> None:
        """DELETE kernels/{id}/pin."""
        await self.reconciler.unpin(kernel_id, self.actor)
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


class AlarmHandler(Handler):
    """An alarm: what it is about is not trusted, and nothing is reclaimed with it, until somebody clears it."""

    @tornado.web.authenticated
    @authorized("write", ALARMS)
    @with_problems
    async def delete(self, alarm_id: str) -> None:
        """DELETE alarms/{id}."""
        await self.reconciler.clear_alarm(alarm_id, self.actor)
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


def span_in(body: Any) -> timedelta:
    """The span in a body {"seconds": number}. Raises `WireError`."""
    seconds = body.get("seconds") if isinstance(body, dict) else None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise WireError('the body must be {"seconds": a number}')
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError) as error:
        raise WireError(f"seconds: {error}") from error


def whole_number(text: str, name: str, least: int, most: int) -> int:
    """The number in the query argument `name`. Raises `WireError` unless it is from `least` to `most`."""
    if not text.isdecimal() or not least <= int(text[:20]) <= most:
        raise WireError(f"{name} must be a whole number from {least} to {most}")
    return int(text)


KERNEL = r"/gpu-reclaim/api/kernels/(?P<kernel_id>[\w-]+)"
ROUTES = [
    (r"/gpu-reclaim/api/status", StatusHandler),
    (KERNEL + "/reclaim", ReclaimHandler),
    (KERNEL + "/restore", RestoreHandler),
    (KERNEL + "/prefetch", PrefetchHandler),
    (KERNEL + "/pin", PinHandler),
    (r"/gpu-reclaim/api/alarms/(?P<alarm_id>[\w-]+)", AlarmHandler),
]
