"""What the log costs, on both databases, each figure beside the bare SQL of the same run."""

from __future__ import annotations

from collections.abc import Iterator

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.log import databases, ingest, past, usage
from jupyter_gpu_reclaim.bench.log.postgresql import missing

ROWS = 1_000_000


def figures(rows: int = ROWS) -> Iterator[Figure]:
    """Ingest, first pages and an export of `rows` transitions, charts and the size of a year of samples."""
    for kind in ("SQLite", "PostgreSQL"):
        with databases.new(kind) as database:
            if database is None:
                yield Figure.unmeasured("log", f"{kind}: all of it", "", missing() or "", 0)
                continue
            yield from ingest.figures(database)
            yield from past.figures(database, rows)
        with databases.new(kind) as database:
            yield from usage.figures(database)
