"""A blocking call kept off the event loop, for calls that may hang for ever: the GPU's driver is known to."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Generic, TypeVar

T = TypeVar("T")
KEPT_SECONDS = 30.0  # three looks at the slowest default pace


class StillBusy(Exception):
    """The call has not come back for `since`; it goes on, and nothing new is started before it has."""

    def __init__(self, since: timedelta) -> None:
        super().__init__(f"busy for {since}")
        self.since = since


class PatientThread(Generic[T]):
    """Runs `call` in a thread, one at a time. However long it hangs there is one thread, and it holds up no exit.

    The thread is kept for the next call: starting one holds the event loop until the system has let it run.
    """

    def __init__(self, call: Callable[[], T], limit: timedelta, name: str) -> None:
        self._call = call
        self._limit = limit.total_seconds()
        self._name = name
        self._running: asyncio.Future[T] | None = None
        self._overdue = False
        self._started_at = 0.0
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._changing = threading.Lock()
        self._has_thread = False

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return self._running is not None and not self._running.done()

    async def result(self) -> T:
        """What `call` returns or raises. Raises `StillBusy` after the limit, and at once while it stays busy."""
        if self._running is None:
            self._running, self._overdue = self._start(), False
            self._started_at = time.monotonic()
        running = self._running
        _, waiting = await asyncio.wait([running], timeout=0 if self._overdue else self._limit)
        if waiting:
            self._overdue = True
            raise StillBusy(timedelta(seconds=time.monotonic() - self._started_at))
        self._running = None
        return running.result()

    def _start(self) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(value: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(value)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def job() -> None:
            value, error = None, None
            try:
                value = self._call()
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(settle, value, error)
            except RuntimeError:
                pass  # the loop has ended meanwhile: nobody waits any more

        with self._changing:
            if self._has_thread:
                self._jobs.put(job)
            else:
                self._has_thread = True
                threading.Thread(target=self._work, args=(job,), name=self._name, daemon=True).start()
        return future

    def _work(self, job: Callable[[], None] | None) -> None:
        while job is not None:
            job()
            job = None
            job = self._next()

    def _next(self) -> Callable[[], None] | None:
        """The next call, or None where the thread is to end."""
        try:
            return self._jobs.get(timeout=KEPT_SECONDS)
        except queue.Empty:
            with self._changing:
                try:
                    return self._jobs.get_nowait()  # it came at the last moment
                except queue.Empty:
                    self._has_thread = False
                    return None
