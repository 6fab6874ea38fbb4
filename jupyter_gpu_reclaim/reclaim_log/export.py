"""Rows as CSV and JSON Lines. The columns and their types stay as they are: programs read them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC
from typing import Any

from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.ports import ReclaimLog

PAGE = 500
COLUMNS = (
    "id", "at", "kernel_id", "event", "phase", "episode_id", "reason", "label", "owner", "mechanism", "framework",
    "driver", "gpus", "footprint_bytes", "moved_bytes", "freed_bytes", "unmovable_bytes", "took_seconds", "detail",
    "actor", "simulated",
)  # fmt: skip
FORMATS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl; charset=utf-8"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


async def pages(log: ReclaimLog, **filters: Any) -> AsyncIterator[list[Transition]]:
    """All rows that pass, newest first, a page at a time: never more than that is in memory."""
    page, after = await log.query(limit=PAGE, **filters)
    yield page
    while after is not None:
        page, after = await log.query(limit=PAGE, after=after, **filters)
        yield page


def head(kind: str) -> str:
    """What comes before the first row."""
    return ",".join(COLUMNS) + "\n" if kind == "csv" else ""


def text(kind: str, rows: Iterable[Transition]) -> str:
    """The rows, a line each (CSV: a record each; text may hold line ends)."""
    if kind == "jsonl":
        return "".join(json.dumps(to_json(row), ensure_ascii=False) + "\n" for row in rows)
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(map(_record, rows))
    return lines.getvalue()


def _record(row: Transition) -> list[Any]:
    values = {
        **to_json(row),
        "at": row.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "gpus": " ".join(row.footprint),
        "footprint_bytes": sum(row.footprint.values()),
        "freed_bytes": sum(row.freed_bytes.values()),
        "unmovable_bytes": sum(row.unmovable.values()),
        "simulated": str(row.simulated),
    }
    return [_cell(values[name]) for name in COLUMNS]


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
