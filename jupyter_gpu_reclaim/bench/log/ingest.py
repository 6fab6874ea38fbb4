"""Transitions in batches of 100: rows a second through the log, beside the bare insert of the same rows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.log.databases import Bare, Postgresql, Sqlite
from jupyter_gpu_reclaim.core.model import Event, Phase, Reason, Transition
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog

BATCH, BATCHES, ROUNDS = 100, 20, 7
START = datetime(2026, 1, 1, tzinfo=UTC)
GPUS, KERNELS, USERS = 8, 2000, 100
GIB = 1 << 30
EPISODE = (
    (Event.RECLAIM_STARTED, Phase.RECLAIMING),
    (Event.RECLAIM_DONE, Phase.RECLAIMED),
    (Event.RESTORE_STARTED, Phase.RESTORING),
    (Event.RESTORE_DONE, Phase.RESIDENT),
)
REASONS = (Reason.IDLE, Reason.PRESSURE, Reason.ADMISSION, Reason.REQUESTED)
COLUMNS = (
    "sequence", "id", "at", "kernel_id", "event", "phase", "episode_id", "reason", "label", "owner", "mechanism",
    "footprint", "moved_bytes", "freed_bytes", "unmovable", "took_seconds", "detail", "actor", "simulated",
    "framework", "driver",
)  # fmt: skip
INSERT = f"INSERT INTO reclaim_transitions ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
INSERT_GPU = "INSERT INTO reclaim_transition_gpus (gpu_uuid, at, sequence) VALUES (?, ?, ?)"


def transition(number: int) -> Transition:
    """The row of that number: one of an episode's four."""
    event, phase = EPISODE[number % 4]
    kernel = number // 4 * 7919 % KERNELS
    gpu = f"GPU-{kernel % GPUS}"
    size = (1 + kernel % 16) * GIB
    done = number % 4 in (1, 3)
    return Transition(
        id=str(UUID(int=number)),
        at=START + timedelta(seconds=7 * number),
        kernel_id=str(UUID(int=kernel)),
        event=event,
        phase=phase,
        episode_id=str(UUID(int=1 << 64 | number // 4)),
        reason=REASONS[number // 4 % 4],
        label=f"course/week-{kernel % 50}/exercise-{kernel}.ipynb",
        owner=f"user-{kernel % USERS}",
        mechanism="torch_offload",
        framework="torch 2.13.0",
        driver="580.65.06",
        footprint={gpu: size},
        moved_bytes=size if done else None,
        freed_bytes={gpu: size} if number % 4 == 1 else {},
        took=timedelta(seconds=0.8) if done else None,
        detail="",
    )


def values(row: Transition, sequence: int, database: Sqlite | Postgresql) -> tuple[Any, ...]:
    """The row as the bare drivers take it."""
    bare_instant = row.at.replace(tzinfo=None).isoformat(" ", "microseconds")
    return (
        sequence, row.id, bare_instant if isinstance(database, Sqlite) else row.at, row.kernel_id, row.event.value,
        row.phase.value, row.episode_id, row.reason and row.reason.value, row.label, row.owner, row.mechanism,
        json.dumps(dict(row.footprint)), row.moved_bytes, json.dumps(dict(row.freed_bytes)),
        json.dumps(dict(row.unmovable)), row.took and row.took.total_seconds(), row.detail, row.actor, row.simulated,
        row.framework, row.driver,
    )  # fmt: skip


def insert(bare: Bare, rows: list[tuple[Any, ...]], gpus: list[str]) -> None:
    """The rows and their places in the index of GPUs, in one transaction."""
    bare.many(INSERT, rows)
    bare.many(INSERT_GPU, [(gpu, row[2], row[0]) for row, gpu in zip(rows, gpus, strict=True)])
    bare.commit()


def figures(database: Sqlite | Postgresql) -> Iterator[Figure]:
    """Rounds of the one and the other, taking turns, so that whatever else the machine does is shared."""
    ours, bares, ratios = [], [], []

    async def through_the_log(batches: list[list[Transition]]) -> float:
        log = SqlReclaimLog(database.url)
        await log.open()
        began = time.perf_counter()
        for batch in batches:
            await log.append(batch)
        took = time.perf_counter() - began
        await log.close()
        return took

    count = BATCH * BATCHES
    asyncio.run(through_the_log([[transition(10_000_000)]]))
    for at in range(ROUNDS):
        first = 10_000_001 + 2 * at * count
        numbers = [range(first + n * BATCH, first + (n + 1) * BATCH) for n in range(BATCHES)]
        our_time = asyncio.run(through_the_log([[transition(n) for n in batch] for batch in numbers]))
        bare = database.bare()
        rows = [[transition(n + count) for n in batch] for batch in numbers]
        ready = [
            ([values(row, 10**9 + int(UUID(row.id)), database) for row in batch],
             [next(iter(row.footprint)) for row in batch])
            for batch in rows
        ]  # fmt: skip
        began = time.perf_counter()
        for batch, gpus in ready:
            insert(bare, batch, gpus)
        bare_time = time.perf_counter() - began
        bare.close()
        ours.append(count / our_time)
        bares.append(count / bare_time)
        ratios.append(bare_time / our_time)
    name = database.name
    yield Figure.of("log", f"{name}: transitions written, batches of {BATCH}", "rows/s", ours)
    yield Figure.of("log", f"{name}: the same by bare SQL", "rows/s", bares)
    yield Figure.of("log", f"{name}: the log's share of bare SQL's speed", "", ratios, at_least=0.7)
