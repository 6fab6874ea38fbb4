"""`QueuedReclaimLog`: the port `ReclaimLog` that takes rows though the database does not."""

from __future__ import annotations

import asyncio
import json
import logging
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from jupyter_gpu_reclaim.core.model import Event, Phase, Transition
from jupyter_gpu_reclaim.core.wire import from_json, to_json
from jupyter_gpu_reclaim.ports import BadCursor, LogUnavailable
from jupyter_gpu_reclaim.reclaim_log.disk_queue import DiskQueue
from jupyter_gpu_reclaim.reclaim_log.known_alarms import ALARMS, KnownAlarms
from jupyter_gpu_reclaim.reclaim_log.log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.matching import matches
from jupyter_gpu_reclaim.reclaim_log.personal import PersonalData
from jupyter_gpu_reclaim.reclaim_log.retention import Retention
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore
from jupyter_gpu_reclaim.reclaim_log.worker import TookTooLong, Worker

logger = logging.getLogger(__name__)

BATCH = 500
ANSWER_WITHIN = timedelta(seconds=0.5)
DISK_SECONDS = 5.0
GIVEN, MOST_LISTINGS = "~", 16
LONGEST_PAUSE_SECONDS = 30.0


class QueuedReclaimLog:
    """A log that takes rows as long as the database or the disk does, and hands them on once each, in their order.

    While rows wait on the disk, new ones go behind them. `folder` is this user's own, on a local disk. A database that
    has not taken rows after `answer_within` gets them later, from the disk: nobody who acts waits longer for it.
    """

    def __init__(
        self,
        log: SqlReclaimLog,
        folder: Path,
        personal: PersonalData | None = None,
        *,
        answer_within: timedelta = ANSWER_WITHIN,
        **queue: Any,
    ) -> None:
        self._log = log
        self._answer_within = answer_within.total_seconds()
        self._slow = f"The reclaim log's database has not answered within {self._answer_within:g} s."
        self._queue = DiskQueue(folder, **queue)
        self._alarms = KnownAlarms(folder)
        self._personal = personal or PersonalData()
        self._worker = Worker("gpu-reclaim-queue")
        self._turn = asyncio.Lock()
        self._handing_on: asyncio.Task | None = None
        self._again = asyncio.Event()
        self._pausing = asyncio.Event()
        self._database_problem: str | None = None
        self._loss: tuple[int, Transition] | None = None
        self._given: dict[str, set[str]] = {}
        self._listings = 0
        self._closed = False

    async def open(self) -> None:
        """Begin to hand on what earlier servers have left. Never raises: what does not work now is tried again."""
        try:
            await self._on_disk(self._queue.open)
        except LogUnavailable as error:
            logger.warning("%s", error)
        self._hand_on()

    async def append(self, rows: Sequence[Transition]) -> None:
        """Keep the rows, in the database or on the disk. Raises `LogUnavailable` if neither takes them.

        A row handed over again is in the database once.
        """
        if self._closed or not rows:
            return await self._log.append(rows)
        rows = [self._personal.disguised(row) for row in rows]
        async with self._turn:
            if len(self._queue) or not await self._appended(rows):
                await self._keep(rows)
        if any(row.event in ALARMS for row in rows):
            await self._remember_alarms(rows)

    async def query(
        self, *, events: Iterable[Event] = (), after: str | None = None, limit: int = 100, **filters: Any
    ) -> tuple[list[Transition], str | None]:
        """See `SqlReclaimLog.query`. A first page begins with all rows that wait on disk, be they more than `limit`.

        Alarms are known even while the database cannot be read, if it ever could. Raises as that does.
        """
        wanted, filters = tuple(events), self._personal.disguised_filters(filters)
        cursor, _, listing = (after or "").partition(GIVEN)
        if listing and listing not in self._given:
            raise BadCursor("This listing is too old to go on with: start again from the first page")
        waiting = [] if after is not None else await self._waiting(events=wanted, **filters)
        given = self._given.get(listing) or {row.id for row in waiting}
        asked = self._log.query(
            events=wanted,
            after=cursor if after is not None else None,
            limit=max(1, limit - len(waiting)),
            **filters,
        )
        if not wanted or not set(wanted) <= set(ALARMS):
            page, following = await asked
        else:
            page, following = await self._alarms_of(asked, first=after is None)
        if following is not None and given:
            following += GIVEN + (listing or self._remember(given))
        return waiting + [row for row in page if row.id not in given], following

    def _remember(self, given: set[str]) -> str:
        """Rows that a listing began with: by its end they may be in the database, and must not come twice."""
        self._listings += 1
        self._given[str(self._listings)] = given
        if len(self._given) > MOST_LISTINGS:
            del self._given[next(iter(self._given))]
        return str(self._listings)

    def complaint(self) -> str | None:
        """What does not work though nothing is held up by it; None: all is well."""
        waiting, dropped = len(self._queue), self._queue.dropped
        if not waiting and not dropped:
            return None
        why = f" {self._database_problem}" if self._database_problem else ""
        lost = f" {dropped} older rows were lost for want of room." if dropped else ""
        return (
            f"{waiting} rows of the reclaim log wait on disk until its database takes them;"
            f" reclaims and restores go on.{lost}{why}"
        )

    async def retain(self, retention: Retention, now: datetime) -> None:
        """Delete what is not to be kept, samples as well, and write a row that says so. Raises `LogUnavailable`."""
        told = await retention.enforce(self._log, now)
        if told is not None:
            await self.append([told])
        if retention.age is not None:
            await UsageStore(self._log, "").forget(int((now - retention.age).timestamp()))

    def usage(self, owner: str) -> UsageStore:
        """The store of usage samples in the same database, for this server of the user's; others' are not read."""
        whose = self._personal.word(owner)
        source = f"{whose}@{platform.node()}/{self._queue.slot}"
        return UsageStore(self._log, source, self._personal.word, whose)

    @property
    def waiting(self) -> int:
        """Rows on the disk that the database does not have yet."""
        return len(self._queue)

    @property
    def dropped(self) -> int:
        """Rows lost for want of room, not yet told in the log."""
        return self._queue.dropped

    async def handed_on(self) -> None:
        """Try now, whenever the next try is due, and return once that came to an end or a pause."""
        self._again.set()
        self._hand_on()
        if self._handing_on is not None:
            pause = asyncio.ensure_future(self._pausing.wait())
            await asyncio.wait({self._handing_on, pause}, return_when=asyncio.FIRST_COMPLETED)
            pause.cancel()

    async def close(self, timeout: timedelta = timedelta(seconds=5)) -> None:
        """Stop handing on; what waits stays on the disk for the next server. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._handing_on is not None:
            self._handing_on.cancel()
            await asyncio.gather(self._handing_on, return_exceptions=True)
        await self._log.close(timeout)
        last = asyncio.wrap_future(self._worker.submit(self._queue.close))
        self._worker.stop()
        await asyncio.wait({last}, timeout=timeout.total_seconds())

    # -- to the database, or to the disk ----------------------------------------------------------------------------

    async def _appended(self, rows: Sequence[Transition]) -> bool:
        try:
            async with asyncio.timeout(self._answer_within):
                await self._log.append(rows)
        except (LogUnavailable, TimeoutError) as error:
            self._failed(error)
            return False
        self._database_problem = None
        return True

    async def _keep(self, rows: Sequence[Transition]) -> None:
        contents = [json.dumps(to_json(row), separators=(",", ":")).encode() for row in rows]
        await self._on_disk(lambda: self._queue.put(contents))
        self._hand_on()

    async def _on_disk(self, work: Any) -> Any:
        try:
            return await self._worker.call(work, DISK_SECONDS)
        except (OSError, ValueError, TookTooLong) as error:
            raise LogUnavailable(
                f"{self._database_problem or ''} The reclaim log's queue on disk, which stands in for its database, "
                f"cannot be used either: {error or type(error).__name__}. Nothing was changed. Check that Jupyter's "
                "data directory can be written.".strip()
            ) from error

    def _failed(self, error: Exception) -> None:
        problem = str(error) or self._slow
        if problem != self._database_problem:
            logger.warning("Rows of the reclaim log wait on disk: %s", problem)
        self._database_problem = problem

    # -- from the disk to the database ------------------------------------------------------------------------------

    def _hand_on(self) -> None:
        if not self._closed and len(self._queue) and (self._handing_on is None or self._handing_on.done()):
            self._pausing.clear()
            self._handing_on = asyncio.create_task(self._hand_on_all(), name="reclaim log queue")

    async def _hand_on_all(self) -> None:
        pause = 1.0
        while len(self._queue):
            self._again.clear()
            try:
                await self._hand_on_some()
                pause = 1.0
            except (LogUnavailable, TookTooLong, OSError) as error:
                self._failed(error)
                self._pausing.set()
                try:
                    async with asyncio.timeout(pause):
                        await self._again.wait()
                except TimeoutError:
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                self._pausing.clear()
        self._database_problem = None
        logger.info("The reclaim log's database has every row that waited on disk.")

    async def _hand_on_some(self) -> None:
        (contents, number), dropped = await self._worker.call(
            lambda: (self._queue.oldest(BATCH), self._queue.dropped), DISK_SECONDS
        )
        rows = [from_json(Transition, json.loads(content)) for content in contents]
        if dropped and self._loss is None:
            self._loss = dropped, _loss(dropped)  # the same row at every try
        await self._log.append([self._loss[1], *rows] if self._loss else rows)
        if self._loss is not None:
            self._queue.told(self._loss[0])
            self._loss = None
        await self._worker.call(lambda: self._queue.taken(number), DISK_SECONDS)

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _waiting(self, **filters: Any) -> list[Transition]:
        if not len(self._queue):
            return []
        contents = await self._on_disk(self._queue.newest)
        rows = (from_json(Transition, json.loads(content)) for content in contents)
        found = {row.id: row for row in rows if matches(row, **filters)}
        return sorted(found.values(), key=lambda row: row.at, reverse=True)

    async def _alarms_of(self, asked: Any, first: bool) -> tuple[list[Transition], str | None]:
        try:
            async with asyncio.timeout(self._answer_within):
                page, following = await asked
        except (LogUnavailable, TimeoutError) as error:
            known = await self._on_disk(self._alarms.read) if first else None
            if known is None:
                raise LogUnavailable(str(error) or self._slow) from error
            logger.warning("Alarms are taken from %s: %s", self._alarms.path, error or self._slow)
            return known, None
        await self._remember_alarms(page)
        return page, following

    async def _remember_alarms(self, rows: Sequence[Transition]) -> None:
        try:
            await self._on_disk(lambda: self._alarms.add(rows))
        except LogUnavailable as error:
            logger.warning("Alarms of the reclaim log cannot be kept beside it: %s", error)


def _loss(dropped: int) -> Transition:
    return Transition(
        id=str(uuid4()),
        at=datetime.now(UTC),
        kernel_id="",
        event=Event.ROWS_LOST,
        phase=Phase.GONE,
        detail=f"{dropped} rows that waited on disk for the database were lost for want of room.",
    )
