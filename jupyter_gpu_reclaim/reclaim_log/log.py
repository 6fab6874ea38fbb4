"""`SqlReclaimLog`: the port `ReclaimLog` on SQLite or PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, Integer, Select, bindparam, func, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from jupyter_gpu_reclaim.core.model import Event, Reason, Transition
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import errors
from jupyter_gpu_reclaim.reclaim_log.cursor import to_cursor
from jupyter_gpu_reclaim.reclaim_log.database import Database, shown
from jupyter_gpu_reclaim.reclaim_log.rows import UnknownWord, to_row, to_transition
from jupyter_gpu_reclaim.reclaim_log.selection import newest
from jupyter_gpu_reclaim.reclaim_log.tables import transition_gpus, transitions
from jupyter_gpu_reclaim.reclaim_log.whole_rows import whole_rows
from jupyter_gpu_reclaim.reclaim_log.worker import TookTooLong, Worker

T = TypeVar("T")
NewRow = tuple[Mapping[str, int], tuple[Any, ...]]  # a row's footprint, and its values for the database

SEQUENCE_OF_ROWS = "reclaim_transitions_sequence_seq"  # as PostgreSQL names what a serial column counts with
NEXT_NUMBERS = select(func.nextval(SEQUENCE_OF_ROWS)).select_from(
    func.generate_series(1, bindparam("count", type_=Integer)).table_valued("n")
)
LAST_NUMBER = select(func.max(transitions.c.sequence))
BATCH = 500  # ids in one statement, well below every database's limit on parameters


class SqlReclaimLog:
    """The append-only log of transitions in one database. Any number of servers may share it.

    All blocking work happens in one thread of its own. Every call answers within `answer_within`, or raises
    `LogUnavailable`; so does every call that the database fails. A log that failed works again as soon as the database
    does: nothing needs to be restarted. `patience` is how long one statement waits for another program's lock.
    """

    def __init__(
        self,
        db_url: str,
        *,
        answer_within: timedelta = timedelta(seconds=15),
        patience: timedelta = timedelta(seconds=5),
    ) -> None:
        self._where = shown(db_url)
        self._database = Database(db_url, patience.total_seconds())
        self._answer_within = answer_within.total_seconds()
        self._worker = Worker("gpu-reclaim-log")
        self._closed = False

    async def open(self) -> None:
        """Opens and migrates now; without it the first call does. Raises `LogUnavailable`."""
        await self._run("open", self._database.open)

    async def append(self, rows: Sequence[Transition]) -> None:
        """Writes the rows durably, all or none, in their order; one whose id is there already is left alone.

        Raises `LogUnavailable`. After an answer that came too late the rows may be there: append them again.
        """
        values = {row.id: (row.footprint, to_row(row)) for row in rows}
        if values:
            await self._run("write", lambda: self._append(list(values.values())))

    async def query(
        self,
        *,
        kernel_id: str | None = None,
        gpu: str | None = None,
        reason: Reason | None = None,
        events: Iterable[Event] = (),
        owner: str | None = None,
        whose: str | None = None,
        label: str | None = None,
        mechanism: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> tuple[list[Transition], str | None]:
        """At most `limit` rows that pass every filter given, newest first, and the cursor of the next page or None.

        `gpu` is a UUID named by the row's footprint, `label` the notebook, `owner` its user, `whose` the user who asks:
        their rows, and those that are of nobody in particular. `since <= at < until`.
        Paging on gives every row that was there at the first page exactly once. Raises `BadCursor`, `LogUnavailable`,
        and ValueError for a naive instant or a limit below 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit}")
        found = newest(
            limit + 1,
            kernel_id=kernel_id,
            gpu=gpu,
            reason=reason,
            events=events,
            owner=owner,
            whose=whose,
            label=label,
            mechanism=mechanism,
            since=since,
            until=until,
            after=after,
        )
        return await self._run("read", lambda: self._page(found, limit))

    def complaint(self) -> None:
        """See `ports.ReclaimLog`: what does not work is raised by each call."""

    async def run(self, doing: str, work: Callable[[Database], T]) -> T:
        """What `work` returns, done in the log's thread; `doing` is "write" or "read". Raises `LogUnavailable`."""
        return await self._run(doing, lambda: work(self._database))

    async def close(self, timeout: timedelta = timedelta(seconds=5)) -> None:
        """Finishes what is queued and closes the database; after `timeout` it is left behind. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        last = asyncio.wrap_future(self._worker.submit(self._database.dispose))
        self._worker.stop()
        await asyncio.wait({last}, timeout=timeout.total_seconds())
        last.cancel()

    async def _run(self, doing: str, work: Callable[[], T]) -> T:
        if self._closed:
            raise errors.closed(self._where)
        try:
            return await self._worker.call(lambda: self._guarded(doing, work), self._answer_within)
        except TookTooLong as slow:
            raise errors.late(doing, self._where, self._answer_within, slow.started) from None

    def _guarded(self, doing: str, work: Callable[[], T]) -> T:
        """Opens, works; on an error lets the connection go, so that the next call starts clean."""
        try:
            try:
                self._database.open()
            except _FAILURES as error:
                raise errors.unavailable("open", self._where, error) from error
            try:
                return work()
            except _FAILURES as error:
                raise errors.unavailable(doing, self._where, error) from error
        except LogUnavailable:
            self._database.dispose()
            raise

    def _append(self, rows: Sequence[NewRow]) -> None:
        try:
            with self._database.writing() as connection:
                _insert(connection, rows)
        except IntegrityError:
            # Some are there already, which is rare: it is not asked beforehand.
            try:
                with self._database.writing() as connection:
                    _insert(connection, _missing(connection, rows))
            except IntegrityError:
                # Another server wrote one of them in between; now that it is visible, the rest goes in.
                with self._database.writing() as connection:
                    _insert(connection, _missing(connection, rows))

    def _page(self, found: Select, limit: int) -> tuple[list[Transition], str | None]:
        with self._database.reading() as connection:
            rows = connection.execute(found).all()
        page = rows[:limit]
        more = len(rows) > limit
        return [to_transition(row) for row in page], to_cursor(
            page[-1].at, page[-1].sequence
        ) if more else None


_FAILURES = (SQLAlchemyError, sqlite3.Error, OSError, ImportError, errors.NewerSchema, UnknownWord)


def _missing(connection: Connection, rows: Sequence[NewRow]) -> list[NewRow]:
    """Those of the rows that are not there."""
    known: set[str] = set()
    ids = [id for _, (id, *_) in rows]
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        known.update(connection.scalars(select(transitions.c.id).where(transitions.c.id.in_(batch))))
    return [row for id, row in zip(ids, rows, strict=True) if id not in known]


def _insert(connection: Connection, rows: Sequence[NewRow]) -> None:
    if not rows:
        return
    dialect, numbers = connection.dialect, _numbers(connection, len(rows))
    numbered = [(number, *values) for number, (_, values) in zip(numbers, rows, strict=True)]
    whole_rows(transitions, dialect).insert(connection, numbered)
    gpus = [
        (gpu, at, number)
        for (number, _, at, *_), (footprint, _) in zip(numbered, rows, strict=True)
        for gpu in footprint
    ]
    whole_rows(transition_gpus, dialect).insert(connection, gpus)


def _numbers(connection: Connection, count: int) -> Sequence[int]:
    """Sequence numbers for new rows, in order. Asking for them first is many times faster than having them returned."""
    if connection.dialect.name == "postgresql":
        return connection.scalars(NEXT_NUMBERS, {"count": count}).all()
    # this transaction holds the file's write lock: nobody takes them in between
    last = connection.scalar(LAST_NUMBER) or 0
    return range(last + 1, last + 1 + count)
