"""Deletes what is older, or more, than the log is to keep: whole episodes, a few hundred rows at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection, Row, delete, func, or_, select, tuple_

from jupyter_gpu_reclaim.core.model import Event, Phase, Transition
from jupyter_gpu_reclaim.reclaim_log.database import Database
from jupyter_gpu_reclaim.reclaim_log.known_alarms import ALARMS
from jupyter_gpu_reclaim.reclaim_log.log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.selection import utc
from jupyter_gpu_reclaim.reclaim_log.tables import transition_gpus, transitions

BATCH = 200
SHORTEST = timedelta(days=1)  # a pin and an episode under way must outlive it


@dataclass(frozen=True, slots=True)
class Retention:
    """How long and how many. None: without limit."""

    age: timedelta | None
    rows: int | None

    async def enforce(self, log: SqlReclaimLog, now: datetime) -> Transition | None:
        """Delete what may go and return the row that says so, to be appended; None where there was nothing.

        An episode goes whole, once its last row may go; one that reaches into what stays, stays. So do rows about
        alarms and those of the last day. Between batches other calls have their turn. Raises `LogUnavailable`.
        """
        before = await log.run("read", lambda database: self._cutoff(database, now))
        if before is None:
            return None
        deleted, place = 0, None
        while True:
            count, place = await log.run("write", lambda database, at=place: _batch(database, before, at))
            deleted += count
            if place is None:
                return _told(deleted, before, now) if deleted else None
            await asyncio.sleep(0)

    def _cutoff(self, database: Database, now: datetime) -> datetime | None:
        """Rows before this may go; None: none may."""
        limits = [] if self.age is None else [now - max(self.age, SHORTEST)]
        if self.rows is not None:
            at, sequence = transitions.c["at", "sequence"]
            with database.reading() as connection:
                first_too_many = connection.scalar(
                    select(at).order_by(at.desc(), sequence.desc()).offset(self.rows).limit(1)
                )
            if first_too_many is not None:
                limits.append(min(first_too_many + timedelta(microseconds=1), now - SHORTEST))
        return max(limits, default=None)


def _batch(
    database: Database, before: datetime, after: tuple[datetime, int] | None
) -> tuple[int, tuple[datetime, int] | None]:
    """Deletes what may go among the next rows in the order of time: how many, and where to go on; None at the end."""
    at, sequence, episode = transitions.c["at", "sequence", "episode_id"]
    old = select(sequence, at, episode).where(at < utc(before)).order_by(at, sequence).limit(BATCH)
    if after is not None:
        old = old.where(tuple_(at, sequence) > tuple_(*after, types=[at.type, sequence.type]))
    with database.writing() as connection:
        rows = connection.execute(old).all()
        if not rows:
            return 0, None
        count = _delete(connection, rows, before)
    return count, (rows[-1].at, rows[-1].sequence) if len(rows) == BATCH else None


def _delete(connection: Connection, rows: Sequence[Row], before: datetime) -> int:
    at, sequence, episode = transitions.c["at", "sequence", "episode_id"]
    ended = connection.scalars(
        select(episode)
        .where(episode.in_({row.episode_id for row in rows} - {None}))
        .group_by(episode)
        .having(func.max(at) < utc(before))
    ).all()
    alone = [row.sequence for row in rows if row.episode_id is None]
    doomed = connection.execute(
        select(sequence, at, transitions.c.footprint)
        .where(or_(sequence.in_(alone), episode.in_(ended)))
        .where(transitions.c.event.not_in([event.value for event in ALARMS]))
    ).all()
    if not doomed:
        return 0
    sequences = [row.sequence for row in doomed]
    instants = [row.at for row in doomed]
    connection.execute(
        delete(transition_gpus).where(
            transition_gpus.c.gpu_uuid.in_({gpu for row in doomed for gpu in row.footprint}),
            transition_gpus.c.at.between(min(instants), max(instants)),
            transition_gpus.c.sequence.in_(sequences),
        )
    )
    connection.execute(delete(transitions).where(sequence.in_(sequences)))
    return len(doomed)


def _told(deleted: int, before: datetime, now: datetime) -> Transition:
    return Transition(
        id=str(uuid4()),
        at=now,
        kernel_id="",
        event=Event.ROWS_DELETED,
        phase=Phase.GONE,
        detail=f"{deleted} rows of episodes that ended before {before.isoformat()} were deleted.",
    )
