"""Rows about alarms, kept once more in a file: what is not trusted must be known while the database is away."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from jupyter_gpu_reclaim.core.model import Event, Transition
from jupyter_gpu_reclaim.core.wire import from_json, to_json

ALARMS = (Event.ALARM_RAISED, Event.ALARM_CLEARED)


class KnownAlarms:
    """Rows about alarms that were read or written by any server of this user. Everything here blocks."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "alarms.jsonl"

    def read(self) -> list[Transition] | None:
        """The rows, newest first; None where the log has never been read. Raises OSError, ValueError for damage."""
        try:
            lines = self.path.read_text("ascii").splitlines()
        except FileNotFoundError:
            return None
        return [from_json(Transition, json.loads(line)) for line in lines]

    def add(self, rows: Sequence[Transition]) -> None:
        """Keep these beside those known, durably; none: the log was read, and has none. Raises OSError, ValueError."""
        before = self.read()
        known = {row.id: row for row in (*(before or ()), *rows) if row.event in ALARMS}
        if before is not None and known.keys() == {row.id for row in before}:
            return
        newest_first = sorted(known.values(), key=lambda row: row.at, reverse=True)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.path.with_name(f"alarms-{os.getpid()}.new")
        with open(
            os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii"
        ) as file:
            file.writelines(json.dumps(to_json(row)) + "\n" for row in newest_first)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
