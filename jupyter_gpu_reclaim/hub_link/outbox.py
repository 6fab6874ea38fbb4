"""Transitions on their way to the Hub's service: on disk until it has them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from jupyter_gpu_reclaim.core.model import Event, Phase, Transition
from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.reclaim_log.disk_queue import DiskQueue
from jupyter_gpu_reclaim.reclaim_log.worker import TookTooLong, Worker

logger = logging.getLogger(__name__)

BATCH = 200
DISK_SECONDS = 10.0


class Outbox:
    """A queue in `folder`, on a local disk. What is put is never waited for, and a full disk stops nothing."""

    def __init__(self, folder: Path, **queue: Any) -> None:
        self._queue = DiskQueue(folder, **queue)
        self._worker = Worker("gpu-reclaim-outbox")
        self._loss: tuple[int, Any] | None = None
        self.filled = asyncio.Event()
        """Set when something was put."""
        self.problem: str | None = None

    def __len__(self) -> int:
        return len(self._queue)

    async def open(self) -> None:
        """Find what earlier servers have left. Never raises: `problem` says what does not work."""
        try:
            await self._worker.call(self._queue.open, DISK_SECONDS)
        except (OSError, TookTooLong) as error:
            self._complain(error)
        self.filled.set()

    def put(self, rows: Sequence[Transition]) -> None:
        """Keep the rows for the service, behind those that wait. Returns at once."""
        if rows:
            contents = [json.dumps(to_json(row), separators=(",", ":")).encode() for row in rows]
            kept = self._worker.submit(lambda: self._queue.put(contents))
            loop = asyncio.get_running_loop()
            kept.add_done_callback(lambda done: loop.call_soon_threadsafe(self._kept, done))

    async def oldest(self) -> tuple[list[Any], int]:
        """Rows that wait, as JSON, oldest first, and the number to give to `taken`. Raises OSError, `TookTooLong`."""
        (contents, number), dropped = await self._worker.call(
            lambda: (self._queue.oldest(BATCH), self._queue.dropped), DISK_SECONDS
        )
        rows = [json.loads(content) for content in contents]
        if dropped and self._loss is None:
            self._loss = dropped, to_json(_loss(dropped))  # the same row at every try
        return ([self._loss[1], *rows] if self._loss else rows), number

    async def taken(self, number: int) -> None:
        """The service has those up to `number`. Raises OSError, `TookTooLong`: it may be given some of them again."""
        if self._loss is not None:
            self._queue.told(self._loss[0])
            self._loss = None
        await self._worker.call(lambda: self._queue.taken(number), DISK_SECONDS)

    async def close(self, timeout: timedelta = timedelta(seconds=2)) -> None:
        """Finish what was put; it is there for the next server."""
        last = asyncio.wrap_future(self._worker.submit(self._queue.close))
        self._worker.stop()
        await asyncio.wait({last}, timeout=timeout.total_seconds())

    def _kept(self, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            self._complain(error)
            return
        self.problem = None
        self.filled.set()

    def _complain(self, error: BaseException) -> None:
        problem = (
            f"Rows for the Hub's log cannot be kept on disk: {error or type(error).__name__}. The log of this server "
            "has them; check that Jupyter's data directory can be written."
        )
        if problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem


def _loss(dropped: int) -> Transition:
    return Transition(
        id=str(uuid4()),
        at=datetime.now(UTC),
        kernel_id="",
        event=Event.ROWS_LOST,
        phase=Phase.GONE,
        detail=f"{dropped} rows that waited on disk for the Hub's service were lost for want of room.",
    )
