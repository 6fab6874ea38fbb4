"""What was held over time, in the log's database: written as it comes, and summed up to minutes, hours and days."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from sqlalchemy import Connection, delete, func, select

from jupyter_gpu_reclaim.core.figures import Point, Share
from jupyter_gpu_reclaim.core.model import Event, Gpu
from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts, Span
from jupyter_gpu_reclaim.reclaim_log.database import Database
from jupyter_gpu_reclaim.reclaim_log.log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.tables import (
    gpu_usage,
    kernel_usage,
    transitions,
    usage_gpus,
    usage_kernels,
    usage_sources,
)
from jupyter_gpu_reclaim.reclaim_log.usage_rows import (
    DAY,
    GPU_AMOUNTS,
    HOUR,
    KEPT,
    KERNEL_AMOUNTS,
    MINUTE,
    STEPS,
    flat_gpu,
    flat_kernel,
    ids_of,
    prune,
    replace,
    sum_up,
)

USE_KEPT_SECONDS = KEPT[kernel_usage.name][MINUTE]
"""For so long it is known by the minute what kernels held."""


class UsageStore:
    """Samples of one server, known by `source`, among those of all that share the database.

    Every call raises `LogUnavailable` when the database does not answer. `word` is what a name of a person or a
    notebook is kept as. With `whose`, as it is kept, nothing is read but what the servers of that user have written.
    """

    def __init__(
        self, log: SqlReclaimLog, source: str, word: Callable[[str], str] = str, whose: str | None = None
    ) -> None:
        self._log = log
        self._source = source
        self._whose = whose
        self._word = word
        self._pruned_at = 0

    async def write(self, spans: Sequence[Span], gpus: Mapping[str, Gpu]) -> None:
        """Write the spans, and the minutes and hours that they are in. Writing a span again replaces it."""
        if spans:
            await self._log.run("write", lambda database: self._write(database, spans, gpus))

    async def points(
        self,
        since: int,
        until: int,
        step: int,
        names: Sequence[str] = GPU_AMOUNTS,
        every_source: bool = False,
    ) -> list[Point]:
        """The GPUs' amounts of these names in spans of `step` seconds, by GPU and time, from rows that fit `step`."""
        sources = self._readable if every_source else self._mine
        return await self._log.run(
            "read", lambda database: _points(database, sources, since, until, step, names)
        )

    async def shares(self, since: int, until: int) -> list[Share]:
        """What each kernel of every server that is read held on each GPU, in whole hours from `since` to `until`."""
        return await self._log.run("read", lambda database: _shares(database, self._readable, since, until))

    async def minutes(self, since: int, until: int) -> list[tuple[int, Share]]:
        """What each kernel of every server that is read held in each minute, with the minute's beginning."""
        return await self._log.run("read", lambda database: _minutes(database, self._readable, since, until))

    async def restores(self, since: int, until: int) -> int:
        """How many restores the log has from `since` to `until`, of every server that is read."""
        return await self._log.run("read", lambda database: _restores(database, self._whose, since, until))

    async def gpus(self) -> dict[str, tuple[str, bool]]:
        """Every GPU by UUID: its name, and whether it is a simulated one."""
        return await self._log.run("read", _gpus)

    async def oldest(self) -> int | None:
        """The beginning of this server's oldest sample, in seconds since 1970; None before the first."""
        return await self._log.run("read", self._oldest)

    async def forget(self, before: int) -> None:
        """Delete the hours before that, of any server."""
        await self._log.run("write", lambda database: _forget(database, before))

    def _mine(self, source: str) -> bool:
        return source == self._source

    def _readable(self, source: str) -> bool:
        return self._whose is None or source.rpartition("@")[0] == self._whose

    def _write(self, database: Database, spans: Sequence[Span], gpus: Mapping[str, Gpu]) -> None:
        with database.writing() as connection:
            (source,) = ids_of(connection, usage_sources, ("name",), {(self._source,): {}}).values()
            gpu_ids = ids_of(
                connection,
                usage_gpus,
                ("uuid",),
                {(uuid,): {"name": gpu.name, "simulated": gpu.simulated} for uuid, gpu in gpus.items()},
            )
            kernels = {key[:3] for span in spans for key in span.kernels}
            kept = {whose: self._kept_as(*whose) for whose in kernels}  # once each: a name may be hashed
            kernel_ids = ids_of(
                connection,
                usage_kernels,
                ("kernel_id", "label", "owner"),
                {words: {} for words in kept.values()},
            )
            of_gpus = (
                (10, source, gpu_ids[uuid,], span.at, *flat_gpu(amounts))
                for span in spans
                for uuid, amounts in span.gpus.items()
            )
            of_kernels = (
                (10, source, span.at, kernel_ids[kept[key[:3]]], gpu_ids[key[3],], *flat_kernel(amounts))
                for span in spans
                for key, amounts in span.kernels.items()
            )
            at = [span.at for span in spans]
            replace(connection, gpu_usage, of_gpus, source, gpu_ids.values(), at)
            replace(connection, kernel_usage, of_kernels, source, gpu_ids.values(), at)
            for finer, coarser in pairwise(STEPS):
                for begin in sorted({one // coarser * coarser for one in at}):
                    sum_up(connection, gpu_usage, source, gpu_ids.values(), finer, coarser, begin)
                    if coarser < DAY:  # days are for charts, and those are of GPUs
                        sum_up(connection, kernel_usage, source, gpu_ids.values(), finer, coarser, begin)
            if self._pruned_at + HOUR <= at[-1]:
                prune(connection, source, at[-1])
                self._pruned_at = at[-1]

    def _kept_as(self, kernel_id: str, label: str, owner: str) -> tuple[str, str, str]:
        """How a span's kernel is known in the database."""
        return kernel_id, self._word(label), self._word(owner)

    def _oldest(self, database: Database) -> int | None:
        with database.reading() as connection:
            mine = select(usage_sources.c.id).where(usage_sources.c.name == self._source).scalar_subquery()
            first = [
                select(func.min(gpu_usage.c.at))
                .where(gpu_usage.c.step == HOUR, gpu_usage.c.source == mine, gpu_usage.c.gpu == gpu)
                for gpu in connection.scalars(select(usage_gpus.c.id))
            ]  # fmt: skip
            return min((at for at in map(connection.scalar, first) if at is not None), default=None)


def _sources(connection: Connection, which: Callable[[str], bool]) -> list[int]:
    """The ids of the servers whose names pass."""
    known = connection.execute(select(usage_sources.c.id, usage_sources.c.name))
    return [key for key, name in known if which(name)]


def _points(
    database: Database, which: Callable[[str], bool], since: int, until: int, step: int, names: Sequence[str]
) -> list[Point]:
    tier = max(kept for kept in STEPS if step % kept == 0)
    amounts = [gpu_usage.c[name] for name in names]
    at = gpu_usage.c.at
    if step == tier:
        asked = select(gpu_usage.c.gpu, at, *amounts)
    else:
        begin = at // step * step
        sums = [func.sum(amount) for amount in amounts]
        asked = select(gpu_usage.c.gpu, begin, *sums).group_by(gpu_usage.c.source, gpu_usage.c.gpu, begin)
    with database.reading() as connection:
        gpus = dict(connection.execute(select(usage_gpus.c.id, usage_gpus.c.uuid)).all())
        asked = asked.where(
            gpu_usage.c.step == tier,
            gpu_usage.c.source.in_(_sources(connection, which)),
            gpu_usage.c.gpu.in_(gpus),
            at >= since,
            at < until,
        )
        rows = connection.execute(asked).all()
    found = [
        Point(
            gpu=gpus[gpu], at=int(begin), amounts=GpuAmounts(**dict(zip(names, map(int, sums), strict=True)))
        )
        for gpu, begin, *sums in rows
    ]
    return sorted(found, key=lambda point: (point.gpu, point.at))


_OF_WHAT = (*usage_kernels.c["kernel_id", "label", "owner"], usage_gpus.c.uuid)


def _shares(database: Database, which: Callable[[str], bool], since: int, until: int) -> list[Share]:
    with database.reading() as connection:
        sums = (
            select(
                kernel_usage.c.kernel,
                kernel_usage.c.gpu,
                *(func.sum(kernel_usage.c[name]).label(name) for name in KERNEL_AMOUNTS),
            )
            .where(
                kernel_usage.c.step == HOUR,
                kernel_usage.c.source.in_(_sources(connection, which)),
                kernel_usage.c.at >= since,
                kernel_usage.c.at < until,
            )
            .group_by(kernel_usage.c.kernel, kernel_usage.c.gpu)
            .subquery()
        )
        rows = connection.execute(
            select(
                *_OF_WHAT,
                *(sums.c[name] for name in KERNEL_AMOUNTS),
            )
            .join_from(sums, usage_kernels, usage_kernels.c.id == sums.c.kernel)
            .join(usage_gpus, usage_gpus.c.id == sums.c.gpu)
            .order_by(usage_kernels.c.id, usage_gpus.c.id)
        )
        return [_share(*row) for row in rows]


def _minutes(
    database: Database, which: Callable[[str], bool], since: int, until: int
) -> list[tuple[int, Share]]:
    asked = (
        select(
            kernel_usage.c.at,
            *_OF_WHAT,
            *(kernel_usage.c[name] for name in KERNEL_AMOUNTS),
        )
        .join_from(kernel_usage, usage_kernels, usage_kernels.c.id == kernel_usage.c.kernel)
        .join(usage_gpus, usage_gpus.c.id == kernel_usage.c.gpu)
        .where(kernel_usage.c.step == MINUTE, kernel_usage.c.at >= since, kernel_usage.c.at < until)
    )
    with database.reading() as connection:
        rows = connection.execute(asked.where(kernel_usage.c.source.in_(_sources(connection, which))))
        return [(int(at), _share(*row)) for at, *row in rows]


def _share(kernel_id: str, label: str, owner: str, gpu: str, *amounts: int) -> Share:
    """One row that begins with `_OF_WHAT`. Sums come as Decimal from PostgreSQL."""
    return Share(
        kernel_id=kernel_id, label=label, owner=owner, gpu=gpu, amounts=KernelAmounts(*map(int, amounts))
    )


def _restores(database: Database, whose: str | None, since: int, until: int) -> int:
    begin, end = (datetime.fromtimestamp(seconds, UTC) for seconds in (since, until))
    with database.reading() as connection:
        return connection.scalar(
            select(func.count()).where(
                transitions.c.event == Event.RESTORE_DONE.value,
                transitions.c.at >= begin,
                transitions.c.at < end,
                *([] if whose is None else [transitions.c.owner == whose]),
            )
        )


def _gpus(database: Database) -> dict[str, tuple[str, bool]]:
    with database.reading() as connection:
        rows = connection.execute(select(usage_gpus.c["uuid", "name", "simulated"]).order_by(usage_gpus.c.id))
        return {uuid: (name, simulated) for uuid, name, simulated in rows}


def _forget(database: Database, before: int) -> None:
    for table in (gpu_usage, kernel_usage):
        with database.writing() as connection:
            connection.execute(delete(table).where(table.c.at < before))
