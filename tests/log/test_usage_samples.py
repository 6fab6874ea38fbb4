"""Usage samples on SQLite: the store's promises, and how much room a year of them takes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from contract.usage_contract import GPUS, TEN, UsageContract
from sqlalchemy import insert

from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts, Span
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.database import Database
from jupyter_gpu_reclaim.reclaim_log.tables import gpu_usage, kernel_usage
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore
from jupyter_gpu_reclaim.reclaim_log.usage_rows import DAY, HOUR, KEPT

MIB = 1 << 20
YEAR = 365 * DAY


class TestSqliteUsage(UsageContract):
    """All of it, on a file."""


def rows_of_a_year(gpus: int, kernels: int) -> int:
    """How many rows there are after a year in which so many kernels always held something."""
    rows = 0
    for table, each in ((gpu_usage, gpus), (kernel_usage, kernels)):
        rows += each * sum(seconds // step for step, seconds in KEPT[table.name].items())
        rows += each * YEAR // HOUR
    return rows


async def test_a_year_of_samples_is_small(log: SqlReclaimLog, file: Path) -> None:
    """At the size of rows with amounts as large as they get, a year of 8 GPUs and 50 kernels takes under 200 MB."""
    store = UsageStore(log, "ada@host/0")
    await store.write([Span(TEN, {"G1": GpuAmounts()}, {("k", "n", "a", "G1"): KernelAmounts()})], GPUS)
    hours = range(TEN + HOUR, TEN + 30 * DAY, HOUR)
    large_gpu = asdict(GpuAmounts(*[80 * MIB * HOUR] * 12))  # KiB × s of an 80 GiB GPU
    large_kernel = asdict(KernelAmounts(*[80 * MIB * HOUR] * 5))

    def fill(database: Database) -> None:
        of_gpus = [
            {"step": HOUR, "source": 1, "gpu": g, "at": at, **large_gpu} for at in hours for g in range(8)
        ]
        of_kernels = [
            {"step": HOUR, "source": 1, "gpu": k % 8, "kernel": k + 1000, "at": at, **large_kernel}
            for at in hours
            for k in range(50)
        ]
        with database.writing() as connection:
            connection.execute(insert(gpu_usage), of_gpus)
            connection.execute(insert(kernel_usage), of_kernels)

    before = sum(path.stat().st_size for path in file.parent.iterdir())
    await log.run("write", fill)
    await log.close()
    grown = file.stat().st_size - before
    per_row = grown / (len(hours) * 58)
    assert per_row * rows_of_a_year(8, 50) < 200 * 1_000_000
    assert per_row > 30  # it was this file that grew
