"""How samples get into the database: ten-second rows, and the minutes, hours and days that they are in, made anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, literal, select, tuple_

from jupyter_gpu_reclaim.core.model import Gpu
from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts, Span
from jupyter_gpu_reclaim.reclaim_log.tables import (
    gpu_usage,
    kernel_usage,
    usage_gpus,
    usage_kernels,
    usage_sources,
)

MINUTE, HOUR, DAY = 60, 3600, 86400
ROWS_AT_ONCE = 500
STEPS = (10, MINUTE, HOUR, DAY)
KEPT: Mapping[str, Mapping[int, int]] = {  # seconds for which rows of a step are kept; hours and days stay
    gpu_usage.name: {10: 6 * HOUR, MINUTE: 8 * DAY},
    kernel_usage.name: {10: HOUR, MINUTE: 2 * DAY},
}
GPU_AMOUNTS = tuple(field.name for field in fields(GpuAmounts))
KERNEL_AMOUNTS = tuple(field.name for field in fields(KernelAmounts))


def source_id(connection: Connection, name: str) -> int:
    """The id of a server whose samples these are."""
    (number,) = _ids_of(connection, usage_sources, ("name",), {(name,): {}}).values()
    return number


def write_spans(
    connection: Connection,
    source: int,
    spans: Sequence[Span],
    gpus: Mapping[str, Gpu],
    word: Callable[[str], str],
) -> None:
    """Write the spans in place of those of their times. `word` is what a person's or notebook's name is kept as."""

    def kept_as(key: tuple[str, str, str, str]) -> tuple[str, str, str]:
        kernel_id, label, owner, _ = key
        return kernel_id, word(label), word(owner)

    gpu_ids = _ids_of(
        connection,
        usage_gpus,
        ("uuid",),
        {(uuid,): {"name": gpu.name, "simulated": gpu.simulated} for uuid, gpu in gpus.items()},
    )
    kernel_ids = _ids_of(
        connection,
        usage_kernels,
        ("kernel_id", "label", "owner"),
        {kept_as(key): {} for span in spans for key in span.kernels},
    )
    of_gpus = [
        {
            "step": 10,
            "source": source,
            "gpu": gpu_ids[uuid,],
            "at": span.at,
            **_flat(amounts, GPU_AMOUNTS),
        }
        for span in spans
        for uuid, amounts in span.gpus.items()
    ]
    of_kernels = [
        {"step": 10, "source": source, "at": span.at, "kernel": kernel_ids[kept_as(key)],
         "gpu": gpu_ids[key[3],], **_flat(amounts, KERNEL_AMOUNTS)}
        for span in spans
        for key, amounts in span.kernels.items()
    ]  # fmt: skip
    at = [span.at for span in spans]
    _replace(connection, gpu_usage, of_gpus, source, gpu_ids.values(), at)
    _replace(connection, kernel_usage, of_kernels, source, gpu_ids.values(), at)
    for finer, coarser in pairwise(STEPS):
        for begin in sorted({one // coarser * coarser for one in at}):
            _sum_up(connection, gpu_usage, source, gpu_ids.values(), finer, coarser, begin)
            if coarser < DAY:  # days are for charts, and those are of GPUs
                _sum_up(connection, kernel_usage, source, gpu_ids.values(), finer, coarser, begin)


def _flat(amounts: GpuAmounts | KernelAmounts, names: Sequence[str]) -> dict[str, int]:
    """As `asdict`, which copies each number with care, in a tenth of the time."""
    return {name: getattr(amounts, name) for name in names}


def _ids_of(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    wanted: Mapping[tuple[str, ...], Mapping[str, Any]],
) -> dict[tuple[str, ...], int]:
    """The id of each row by its key, which is in the columns `names`. One that lacks is made, with what is wanted."""
    columns, keys = [table.c[name] for name in names], list(wanted)
    known: dict[tuple[str, ...], int] = {}
    for begin in range(0, len(keys), ROWS_AT_ONCE):
        these = tuple_(*columns).in_(keys[begin : begin + ROWS_AT_ONCE])
        known |= {
            tuple(key): number
            for number, *key in connection.execute(select(table.c.id, *columns).where(these))
        }
    lacking = [{**dict(zip(names, key, strict=True)), **wanted[key]} for key in keys if key not in known]
    if lacking:
        made = connection.execute(insert(table).returning(table.c.id, *columns), lacking)
        known |= {tuple(key): number for number, *key in made}
    return known


def _replace(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    source: int,
    gpus: Collection[int],
    at: Iterable[int],
) -> None:
    these = [table.c.step == 10, table.c.source == source, table.c.gpu.in_(gpus), table.c.at.in_(at)]
    connection.execute(delete(table).where(*these))
    if rows:
        connection.execute(insert(table), rows)


def _sum_up(
    connection: Connection,
    table: Table,
    source: int,
    gpus: Collection[int],
    finer: int,
    coarser: int,
    begin: int,
) -> None:
    """Make the row of a coarser step anew from the finer ones in it."""
    whose = [name for name in ("kernel", "gpu") if name in table.c]
    amounts = KERNEL_AMOUNTS if table is kernel_usage else GPU_AMOUNTS
    mine = [table.c.source == source, table.c.gpu.in_(gpus)]
    connection.execute(delete(table).where(table.c.step == coarser, table.c.at == begin, *mine))
    sums = (
        select(
            literal(coarser),
            literal(source),
            literal(begin),
            *(table.c[name] for name in whose),
            *(func.sum(table.c[name]) for name in amounts),
        )
        .where(table.c.step == finer, table.c.at >= begin, table.c.at < begin + coarser, *mine)
        .group_by(*(table.c[name] for name in whose))
    )
    connection.execute(insert(table).from_select(["step", "source", "at", *whose, *amounts], sums))


def prune(connection: Connection, source: int, now: int) -> None:
    """Delete the server's rows that are older than their step is kept."""
    gpus = connection.scalars(select(usage_gpus.c.id)).all()
    for table in (gpu_usage, kernel_usage):
        for step, seconds in KEPT[table.name].items():
            old = [table.c.step == step, table.c.source == source, table.c.at < now - seconds]
            connection.execute(delete(table).where(*old, table.c.gpu.in_(gpus)))
