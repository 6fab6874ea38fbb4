"""Who is whose child, read from Linux's /proc. Every answer may be None: processes end while one looks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DEEPEST = 64  # a longer chain of parents is not walked to its end


def parent_pid(pid: int) -> int | None:
    """The parent of a process, None when it is gone or hidden."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the command in brackets and may itself hold spaces and brackets.
    return int(stat.rpartition(")")[2].split()[1])


def lineage(pid: int) -> Iterator[int]:
    """The process itself, its parent, and so on up to the first process of the machine or container."""
    for _ in range(DEEPEST):
        yield pid
        parent = parent_pid(pid)
        if not parent:
            return
        pid = parent


def command_name(pid: int) -> str:
    """The short name of a process, "?" when it is gone or hidden."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() or "?"
    except OSError:
        return "?"
