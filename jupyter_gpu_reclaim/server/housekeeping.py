"""Keeps the log within its bounds, once an hour."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from jupyter_gpu_reclaim.ports import Clock, LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import QueuedReclaimLog
from jupyter_gpu_reclaim.reclaim_log.retention import Retention

logger = logging.getLogger(__name__)

FIRST_AFTER_SECONDS, EVERY_SECONDS = 60.0, 3600.0


class Housekeeping:
    """Deletes what the log is not to keep. `start` needs a running event loop."""

    def __init__(self, log: QueuedReclaimLog, clock: Clock, retention: Retention) -> None:
        self._log = log
        self._clock = clock
        self._retention = retention
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        """Begin, a minute from now."""
        self._task = asyncio.create_task(self._run(), name="reclaim log retention")

    async def stop(self) -> None:
        """End, between two batches."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def once(self) -> None:
        """Do it now. Raises `LogUnavailable`."""
        await self._log.retain(self._retention, self._clock.now())

    async def _run(self) -> None:
        pause = timedelta(seconds=FIRST_AFTER_SECONDS)
        while True:
            await asyncio.sleep(pause.total_seconds())
            pause = timedelta(seconds=EVERY_SECONDS)
            try:
                await self.once()
            except LogUnavailable as error:
                logger.warning("Old rows of the reclaim log stay for now: %s", error)
