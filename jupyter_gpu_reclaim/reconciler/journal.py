"""What the reconciler writes down: intents that must be there before an act, and outcomes that wait for the log."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.ports import ReclaimLog

logger = logging.getLogger(__name__)

INTENT_PATIENCE_SECONDS = 10.0
"""A reclaim whose intent is not written by then is not done."""
RECORD_PATIENCE_SECONDS = 1.0
"""A restore is held up for no longer than this by a log that hangs."""
RESTORE_PATIENCE_SECONDS = 0.002
"""How long a cell's data waits for the row that says so: a slow disk is not waited for. If the server dies in between,
the agent says where the data is, and the log is brought into line with it.
"""
MOST_PENDING = 1000
"""Rows kept in memory while the log is away; beyond that the oldest is given up, and said so."""


class Journal:
    """Writes rows in the order in which they were made, and keeps them while the log cannot be written.

    A row may be handed to the log twice (its answer may have been lost); the log writes it once.
    """

    def __init__(
        self, log: ReclaimLog, on_row: Callable[[Transition], None], *, most_pending: int = MOST_PENDING
    ) -> None:
        self._log = log
        self._on_row = on_row
        self._most_pending = most_pending
        self._pending: deque[Transition] = deque()
        self._writing = asyncio.Lock()
        self._flush: asyncio.Task | None = None
        self.problem: str | None = None  # why the log could not be written the last time; None: it could
        self.given_up = 0  # rows that were dropped because the log was away for too long

    @property
    def pending(self) -> int:
        """Rows not yet known to be written."""
        return len(self._pending)

    async def intend(self, row: Transition) -> bool:
        """True once `row` is written. On False the act must not be done; the row stays, to be followed by why not."""
        self._keep(row)
        return await self._write(INTENT_PATIENCE_SECONDS)

    async def record(self, row: Transition) -> None:
        """Write `row` now if the log answers soon, else later. Never raises for the log."""
        self._keep(row)
        await self._write(RECORD_PATIENCE_SECONDS)

    def recording(self, row: Transition) -> asyncio.Task:
        """As `record`, begun: the row has its place before all that are made from now on."""
        self._keep(row)
        return asyncio.create_task(self._write(RECORD_PATIENCE_SECONDS), name="reclaim log record")

    def note(self, row: Transition) -> None:
        """Write `row` without waiting for it."""
        self._keep(row)
        self.kick()

    def kick(self) -> None:
        """Try again, in the background, to write what is pending."""
        if self._pending and (self._flush is None or self._flush.done()):
            self._flush = asyncio.create_task(self._write(INTENT_PATIENCE_SECONDS), name="reclaim log flush")

    async def flushed(self) -> None:
        """Wait for a write in the background, if one is under way."""
        if self._flush is not None:
            await asyncio.wait([self._flush])

    def complaint(self) -> str | None:
        """What does not work, as a sentence for people; None: all is well."""
        if self.problem is None:
            return self._log.complaint()
        lost = f" {self.given_up} of its rows are lost." if self.given_up else ""
        return (
            f"The log of reclaims cannot be written: {self.problem} "
            f"Nothing is reclaimed until it can; restores go on.{lost}"
        )

    async def close(self, timeout: float) -> None:
        """Write what is pending if that can be done within `timeout` seconds, and say what could not."""
        if self._flush is not None:
            self._flush.cancel()
            await asyncio.gather(self._flush, return_exceptions=True)
        if self._pending and not await self._write(timeout):
            logger.error("%d rows of the reclaim log could not be written: %s", self.pending, self.problem)

    def _keep(self, row: Transition) -> None:
        self._on_row(row)
        self._pending.append(row)
        if len(self._pending) > self._most_pending:
            lost = self._pending.popleft()
            self.given_up += 1
            logger.error(
                "The reclaim log has been away for too long; its row %s is given up: %s", lost.id, lost
            )

    async def _write(self, patience: float) -> bool:
        try:
            async with asyncio.timeout(patience), self._writing:
                rows = tuple(self._pending)
                if rows:
                    await self._log.append(rows)
                    written = {row.id for row in rows}
                    self._pending = deque(row for row in self._pending if row.id not in written)
        except Exception as error:  # any defect of the log must leave the restores alone
            self._say(_cause(error, patience))
            return False
        if self.problem is not None:
            logger.info("The reclaim log can be written again.")
        self.problem = None
        return True

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning(
                "The reclaim log cannot be written: %s Nothing is reclaimed until it can.", problem
            )
        self.problem = problem


def _cause(error: Exception, patience: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {patience:g} s."
    return f"{error or type(error).__name__}"
