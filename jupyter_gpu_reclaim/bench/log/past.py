"""Pages and an export of a log of a million transitions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from statistics import quantiles
from typing import Any
from uuid import UUID

from jupyter_gpu_reclaim.bench import Figure, Refused
from jupyter_gpu_reclaim.bench.log.databases import Postgresql, Sqlite
from jupyter_gpu_reclaim.bench.log.ingest import COLUMNS, REASONS, START, insert, transition, values
from jupyter_gpu_reclaim.core.model import Event, Reason
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog

PAGE, ASKED = 100, 60
SELECT = f"SELECT {', '.join(f't.{column}' for column in COLUMNS)} FROM reclaim_transitions t"
NEWEST = "ORDER BY t.at DESC, t.sequence DESC LIMIT 101"


# The high-water mark that the system keeps for the process itself: `ru_maxrss` begins with its parent's.
EXPORT = r"""
import re, sys
from jupyter_gpu_reclaim import cli

code = cli.main(["log", "--format", "csv", "--db-url", sys.argv[1]])
print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(code)
"""


def filters(rows: int) -> Iterator[tuple[str, Callable[[int], tuple[dict[str, Any], str, list[Any]]]]]:
    """Each filter: its name, and for the n-th question what the log is asked, and what bare SQL is."""
    day = START + timedelta(seconds=7 * rows // 2)
    yield "none", lambda n: ({}, "", [])
    yield (
        "time",
        lambda n: (
            {"since": day, "until": day + timedelta(days=1, minutes=n)},
            "WHERE t.at >= ? AND t.at < ?",
            [day, day + timedelta(days=1, minutes=n)],
        ),
    )
    for name, column, value in (
        ("kernel", "kernel_id", lambda n: str(UUID(int=n * 31))),
        ("user", "owner", lambda n: f"user-{n}"),
        ("notebook", "label", lambda n: f"course/week-{n * 31 % 50}/exercise-{n * 31}.ipynb"),
        ("mechanism", "mechanism", lambda n: "torch_offload"),
    ):
        yield name, lambda n, column=column, value=value: (
            {column: value(n)}, f"WHERE t.{column} = ?", [value(n)]
        )  # fmt: skip
    yield "reason", lambda n: ({"reason": Reason.IDLE}, "WHERE t.reason = ?", ["idle"])
    yield "event", lambda n: ({"events": [Event.RESTORE_DONE]}, "WHERE t.event = ?", ["restore_done"])
    yield (
        "GPU",
        lambda n: (
            {"gpu": f"GPU-{n % 8}"},
            "JOIN reclaim_transition_gpus g ON g.sequence = t.sequence AND g.at = t.at WHERE g.gpu_uuid = ?",
            [f"GPU-{n % 8}"],
        ),
    )
    # A user here has one reason only: half of these pages are full, half are empty.
    yield (
        "whose, none",
        lambda n: ({"whose": f"user-{n}"}, "WHERE t.owner = ?", [f"user-{n}"]),
    )
    yield (
        "whose, reason",
        lambda n: (
            {"whose": f"user-{n}", "reason": REASONS[-(n + n % 2) % 4]},
            "WHERE t.owner = ? AND t.reason = ?",
            [f"user-{n}", REASONS[-(n + n % 2) % 4].value],
        ),
    )
    yield (
        "whose, event",
        lambda n: (
            {"whose": f"user-{n}", "events": [Event.RESTORE_DONE]},
            "WHERE t.owner = ? AND t.event = ?",
            [f"user-{n}", "restore_done"],
        ),
    )


def figures(database: Sqlite | Postgresql, rows: int) -> Iterator[Figure]:
    """The first page by each filter, and the export, after the log was filled up to `rows`."""
    fill(database, rows)
    ours, bares = asyncio.run(pages(database, rows))
    for name, samples in ours.items():
        p95, bare = (quantiles(times, n=20)[-1] for times in (samples, bares[name]))
        yield _p95(f"{database.name}: first page, filter: {name}; p95", samples, p95)
        yield Figure.of(
            "log", f"{database.name}: as many times bare SQL's {bare:.1f} ms", "", [p95 / bare], target=2
        )
    yield export(database, rows)


def fill(database: Sqlite | Postgresql, rows: int) -> None:
    """Put in what lacks, ten thousand at a time."""
    bare = database.bare()
    if isinstance(database, Sqlite):
        bare.rows("PRAGMA cache_size = -262144")  # 256 MiB, for this connection only
    for first in range(1, rows, 10_000):
        batch = [transition(n) for n in range(first, min(first + 10_000, rows))]
        insert(
            bare,
            [values(row, 10**7 + int(UUID(row.id)), database) for row in batch],
            [next(iter(row.footprint)) for row in batch],
        )
    bare.rows("ANALYZE")
    bare.commit()
    bare.close()


async def pages(
    database: Sqlite | Postgresql, rows: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds by filter: through the log, and by bare SQL, taking turns. Raises `Refused` if they differ."""
    log, bare = SqlReclaimLog(database.url), database.bare()
    ours: dict[str, list[float]] = {}
    bares: dict[str, list[float]] = {}
    for name, question in filters(rows):
        ours[name], bares[name] = [], []
        order = NEWEST if name != "GPU" else NEWEST.replace("t.", "g.")
        for n in range(ASKED + 3):
            asked, where, given = question(n)
            if isinstance(database, Sqlite):
                given = [
                    one if isinstance(one, str) else one.replace(tzinfo=None).isoformat(" ", "microseconds")
                    for one in given
                ]
            began = time.perf_counter()
            found, _ = await log.query(**asked, limit=PAGE)
            middle = time.perf_counter()
            plain = bare.rows(f"{SELECT} {where} {order}", given)
            end = time.perf_counter()
            bare.commit()
            if [row.id for row in found] != [row[1] for row in plain[:PAGE]]:
                raise Refused(f"{database.name}: the log's page by {name} is not that of bare SQL")
            if n >= 3:  # the first ones warm the caches of both
                ours[name].append(1e3 * (middle - began))
                bares[name].append(1e3 * (end - middle))
    bare.close()
    await log.close()
    return ours, bares


def export(database: Sqlite | Postgresql, rows: int) -> Figure:
    """Memory of the process that exports the whole log as CSV."""
    child = subprocess.Popen(
        [sys.executable, "-c", EXPORT, database.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    lines = sum(block.count(b"\n") for block in iter(lambda: child.stdout.read(1 << 20), b""))
    told = child.communicate()[1].decode()
    if child.returncode or lines < rows:
        raise Refused(
            f"{database.name}: the export ended with {child.returncode} after {lines} lines: {told}"
        )
    what = f"{database.name}: memory of an export of {lines - 1:,} rows, all told"
    return Figure.of("log", what, "MB", [int(told) * 1024 / 1e6], target=100)


def _p95(name: str, samples: list[float], p95: float) -> Figure:
    return Figure(
        group="log", name=name, value=p95, unit="ms", low=min(samples), high=max(samples), target=15, holds=p95 <= 15
    )  # fmt: skip
