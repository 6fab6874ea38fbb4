"""`jupyter gpu-reclaim log`: the log's rows as a table, CSV or JSON Lines, and new ones as they come."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.core.explain import human_bytes
from jupyter_gpu_reclaim.core.model import Event, Transition
from jupyter_gpu_reclaim.ports import ReclaimLog
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.export import head, pages, text
from jupyter_gpu_reclaim.reclaim_log.with_queue import LogWithQueue

Show = Callable[[str], None]

LOOK_BACK = timedelta(minutes=10)
"""A row that another server wrote late, or that had waited on disk, is followed if it is no older than this."""
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
WIDTHS = (19, 16, 24, 12, 14, 12, 9)


def moment(words: str, now: datetime | None = None) -> datetime:
    """An instant: `7d` ago (m, h, d, w), or ISO 8601, of this machine's zone where it names none. Raises ValueError."""
    if span := re.fullmatch(r"(\d{1,6})([mhdw])", words):
        return (now or datetime.now(UTC)) - timedelta(**{UNITS[span[2]]: int(span[1])})
    return datetime.fromisoformat(words).astimezone()


async def show_log(
    show: Show,
    db_url: str,
    kind: str,
    limit: int | None,
    follow: bool,
    filters: Mapping[str, Any],
    queue: Path | None = None,
    pause: float = 1.0,
) -> None:
    """Show the rows, those in the `queue` folder among them, and with `follow` go on for ever. Raises `LogUnavailable`.

    A table begins with the oldest of the newest `limit`; CSV and JSON Lines have all rows, newest first, unless they
    are followed.
    """
    database = SqlReclaimLog(db_url)
    log = database if queue is None else LogWithQueue(database, queue)
    try:
        if header(kind):
            show(header(kind))
        if kind != "table" and limit is None and not follow:
            async for page in pages(log, **filters):
                _show_rows(show, kind, page)
            return
        rows, _ = await log.query(limit=limit or 50, **filters)
        rows = rows[: limit or 50]
        _show_rows(show, kind, rows[::-1])
        if follow:
            await _follow(show, log, kind, filters, rows, pause)
    finally:
        await database.close()


async def _follow(
    show: Show, log: ReclaimLog, kind: str, filters: Mapping[str, Any], rows: list[Transition], pause: float
) -> None:
    newest = max((row.at for row in rows), default=None)
    seen = {row.id: row.at for row in rows}
    first = True
    while True:
        since = filters.get("since") if newest is None else newest - LOOK_BACK
        found = [row async for page in pages(log, **{**filters, "since": since}) for row in page]
        # those left out of the beginning for their number are not new
        fresh = [row for row in found if row.id not in seen and not (first and newest and row.at <= newest)]
        _show_rows(show, kind, fresh[::-1])
        seen = {row.id: row.at for row in found}
        newest = max((row.at for row in found), default=newest)
        first = False
        await asyncio.sleep(pause)


def _show_rows(show: Show, kind: str, rows: Iterable[Transition]) -> None:
    lines = "".join(table_line(row) + "\n" for row in rows) if kind == "table" else text(kind, rows)
    if lines:
        show(lines.removesuffix("\n"))


def header(kind: str) -> str:
    """The first line."""
    if kind == "table":
        return _aligned(("when", "event", "notebook", "user", "reason", "bytes", "took"), "detail")
    return head(kind).removesuffix("\n")


def table_line(row: Transition) -> str:
    """One row for people, in this machine's time; the bytes are those moved, or those held where nothing was."""
    held = sum(row.footprint.values())
    size = row.moved_bytes if row.moved_bytes is not None else held
    return _aligned(
        (
            row.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            row.event.value,
            row.label,
            row.owner,
            row.reason.value if row.reason is not None else "",
            human_bytes(size) if size else "",
            f"{row.took.total_seconds():.2f} s" if row.took is not None else "",
        ),
        " ".join(row.detail.split()) if row.event is not Event.WAIT_ENDED else "",
    )


def _aligned(cells: Iterable[str], rest: str) -> str:
    shown = []
    for cell, width in zip(cells, WIDTHS, strict=True):
        plain = "".join(letter if letter.isprintable() else "?" for letter in cell)
        # the end of a notebook's path tells more than its beginning
        shown.append((plain if len(plain) <= width else f"…{plain[1 - width :]}").ljust(width))
    return "  ".join([*shown, rest]).rstrip()
