"""Rows of usage samples as they are written: replaced, summed up from finer to coarser steps, deleted in their time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    Connection,
    Delete,
    Insert,
    Table,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    tuple_,
)

from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts
from jupyter_gpu_reclaim.reclaim_log.database import in_parts
from jupyter_gpu_reclaim.reclaim_log.tables import gpu_usage, kernel_usage, usage_gpus
from jupyter_gpu_reclaim.reclaim_log.whole_rows import whole_rows

MINUTE, HOUR, DAY = 60, 3600, 86400
ROWS_AT_ONCE, WRITTEN_AT_ONCE = 500, 100
STEPS = (10, MINUTE, HOUR, DAY)
KEPT: Mapping[str, Mapping[int, int]] = {  # seconds for which rows of a step are kept; hours and days stay
    gpu_usage.name: {10: 6 * HOUR, MINUTE: 8 * DAY},
    kernel_usage.name: {10: HOUR, MINUTE: 2 * DAY},
}
GPU_AMOUNTS = tuple(field.name for field in fields(GpuAmounts))
KERNEL_AMOUNTS = tuple(field.name for field in fields(KernelAmounts))


# Amounts as the tables' last columns, which stand in the same order.
flat_gpu, flat_kernel = attrgetter(*GPU_AMOUNTS), attrgetter(*KERNEL_AMOUNTS)


def ids_of(
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


def replace(
    connection: Connection,
    table: Table,
    rows: Iterable[tuple[int, ...]],
    source: int,
    gpus: Collection[int],
    at: Iterable[int],
) -> None:
    """Put these in place of what one server has written for these instants."""
    these = [table.c.step == 10, table.c.source == source, table.c.gpu.in_(gpus), table.c.at.in_(at)]
    connection.execute(delete(table).where(*these))
    for some in in_parts(rows, WRITTEN_AT_ONCE):
        whole_rows(table, connection.dialect).insert(connection, some)


def sum_up(
    connection: Connection,
    table: Table,
    source: int,
    gpus: Collection[int],
    finer: int,
    coarser: int,
    begin: int,
) -> None:
    """Make the row of a coarser step anew from the finer ones in it."""
    of = {"of_source": source, "of_gpus": list(gpus), "begin": begin, "end": begin + coarser}
    for statement in _summing_up(table, finer, coarser):
        connection.execute(statement, of)


@cache  # there are a handful, and making one costs more than the database takes to run it
def _summing_up(table: Table, finer: int, coarser: int) -> tuple[Delete, Insert]:
    whose = [name for name in ("kernel", "gpu") if name in table.c]
    amounts = KERNEL_AMOUNTS if table is kernel_usage else GPU_AMOUNTS
    begin = bindparam("begin", type_=table.c.at.type)
    source = bindparam("of_source", type_=table.c.source.type)
    mine = [table.c.source == source, table.c.gpu.in_(bindparam("of_gpus", expanding=True))]
    sums = (
        select(
            literal(coarser),
            source,
            begin,
            *(table.c[name] for name in whose),
            *(func.sum(table.c[name]) for name in amounts),
        )
        .where(table.c.step == finer, table.c.at >= begin, table.c.at < bindparam("end"), *mine)
        .group_by(*(table.c[name] for name in whose))
    )
    return (
        delete(table).where(table.c.step == coarser, table.c.at == begin, *mine),
        insert(table).from_select(["step", "source", "at", *whose, *amounts], sums),
    )


def prune(connection: Connection, source: int, now: int) -> None:
    """Delete one server's finer rows that are older than they are kept."""
    gpus = connection.scalars(select(usage_gpus.c.id)).all()
    for table in (gpu_usage, kernel_usage):
        for step, seconds in KEPT[table.name].items():
            old = [table.c.step == step, table.c.source == source, table.c.at < now - seconds]
            connection.execute(delete(table).where(*old, table.c.gpu.in_(gpus)))
