"""A year of samples of 8 GPUs and 50 kernels: its size, and how fast charts of it come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import astuple, fields

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.log.databases import Bare, Postgresql, Sqlite
from jupyter_gpu_reclaim.core.model import Gpu
from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts, Span
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore
from jupyter_gpu_reclaim.reclaim_log.usage_rows import DAY, HOUR, KEPT, MINUTE, STEPS

GPUS, KERNELS, ROUNDS = 8, 50, 15
NOW = 1_790_000_000 // HOUR * HOUR
MIB = 1 << 20
SHOWN = ("ms", "total", "resident", "reclaimed", "others")  # what a chart needs
CHARTS = (
    ("an hour", HOUR, 10),
    ("a day", DAY, 5 * MINUTE),
    ("a week", 7 * DAY, HOUR),
    ("a year", 365 * DAY, DAY),
)


def figures(database: Sqlite | Postgresql) -> Iterator[Figure]:
    """Size after a year, and milliseconds for each chart."""
    yield from asyncio.run(_measured(database))


async def _measured(database: Sqlite | Postgresql) -> list[Figure]:
    log = SqlReclaimLog(database.url)
    store = UsageStore(log, "bench@host/0")
    gpus = {
        f"GPU-{g}": Gpu(uuid=f"GPU-{g}", name="bench", total_bytes=80 << 30, used_bytes=0)
        for g in range(1, GPUS + 1)
    }
    kernels = {(f"k{k}", f"{k}.ipynb", "ada", f"GPU-{1 + k % GPUS}"): KernelAmounts() for k in range(KERNELS)}
    await store.write([Span(NOW, {uuid: GpuAmounts(ms=1) for uuid in gpus}, kernels)], gpus)
    bare = database.bare()
    _fill(bare)
    bare.rows("ANALYZE")
    bare.commit()
    bare.close()
    found = [
        Figure.of(
            "log", f"{database.name}: a year of samples, {GPUS} GPUs and {KERNELS} kernels", "MB",
            [database.size() / 1e6], target=200,
        )
    ]  # fmt: skip
    for name, seconds, step in CHARTS:
        samples = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            points = await store.points(NOW - seconds, NOW, step, SHOWN)
            samples.append(1e3 * (time.perf_counter() - began))
        what = f"{database.name}: a chart of {name}, {len(points)} points"
        found.append(Figure.of("log", what, "ms", samples, target=50))
    await log.close()
    return found


def _fill(bare: Bare) -> None:
    """Everything there is after a year in which all kernels always held something."""
    for table, amounts, whose in (
        ("reclaim_gpu_usage", GpuAmounts, [(g,) for g in range(1, GPUS + 1)]),
        ("reclaim_kernel_usage", KernelAmounts, [(k, 1 + k % GPUS) for k in range(1, KERNELS + 1)]),
    ):
        names = [field.name for field in fields(amounts)]
        keys = ["gpu"] if table == "reclaim_gpu_usage" else ["kernel", "gpu"]
        columns = ["step", "source", "at", *keys, *names]
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        for step in STEPS if table == "reclaim_gpu_usage" else STEPS[:-1]:
            large = astuple(amounts(*(30 * MIB * step + n for n in range(len(names)))))
            begin = NOW - KEPT[table].get(step, 365 * DAY)
            bare.many(
                statement, [(step, 1, at, *key, *large) for at in range(begin, NOW, step) for key in whose]
            )
            bare.commit()
