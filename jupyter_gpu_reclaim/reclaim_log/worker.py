"""One thread that makes the database's blocking calls, one after another, so that the event loop never waits in them.

Not a ThreadPoolExecutor: the interpreter joins the threads of those at exit, so one call stuck on a dead file system
would keep the whole server from ending.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class TookTooLong(Exception):
    """No answer in time. `started` tells whether the call was under way: then it may still take effect."""

    def __init__(self, started: bool) -> None:
        super().__init__("no answer in time")
        self.started = started


class Worker:
    """Runs calls in order in its own daemon thread, which starts with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False

    async def call(self, function: Callable[[], T], within: float) -> T:
        """What `function` returns or raises, or `TookTooLong` after `within` seconds, the wait for its turn included.

        A call whose turn had not come is dropped when its caller gives up or is cancelled; one under way goes on.
        """
        call = self.submit(function)
        answer = asyncio.wrap_future(call)
        try:
            await asyncio.wait({answer}, timeout=within)
        finally:
            dropped = call.cancel()
        if answer.done():
            return answer.result()
        answer.cancel()
        raise TookTooLong(started=not dropped)

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Queues the call. Raises RuntimeError once stopped."""
        if self._stopping:
            raise RuntimeError(f"{self._name} has stopped")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        call: Future[T] = Future()
        self._calls.put((call, function))
        return call

    def stop(self) -> None:
        """Lets the calls already queued finish and takes no more. Does not wait."""
        self._stopping = True
        self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            call, function = item
            if not call.set_running_or_notify_cancel():
                continue
            try:
                call.set_result(function())
            except BaseException as error:  # it belongs to the caller, whatever it is
                call.set_exception(error)
            del item, call, function  # nothing is kept alive while the thread waits
