"""This extension's own log (`jupyter gpu-reclaim log --format jsonl`) as a trace.

The log has reclaims and restores, no cells: a stretch from a restore to the last use before the next reclaim is read as
one cell that was busy all along, so that this is an upper limit of the use. When the last use was follows from why the
kernel was reclaimed: it had then been idle for `idle_after` or `pressure_idle_after`, taken to be the defaults. Kernels
that were never reclaimed are not in the log, and not in the trace.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.core.model import Event, Policy, Reason
from jupyter_gpu_reclaim.plan.trace import BadTrace, Row, Trace, assembled

_IDLE_FOR = {Reason.IDLE: Policy().idle_after, Reason.REQUESTED: timedelta(0)}
_MICROSECOND = timedelta(microseconds=1)


def read(path: Path) -> Trace:
    """Read an export. Raises `BadTrace`, `OSError`."""
    by_kernel: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                row["at"] = datetime.fromisoformat(row["at"])
                by_kernel[row["kernel_id"]].append(row)
            except (ValueError, TypeError, KeyError) as error:
                raise BadTrace(f"{path}:{number}: no row of an exported log: {error}") from None
    found = [stretch for rows in by_kernel.values() for stretch in stretches(rows)]
    if not found:
        raise BadTrace(f"{path}: no reclaim in it")
    beginning = min(began for began, _, _ in found)
    return assembled(
        Row(
            row["kernel_id"], row.get("owner") or "", row.get("label") or "",
            (began - beginning) // _MICROSECOND, (ended - began) // _MICROSECOND, sum(row["footprint"].values()),
        )
        for began, ended, row in found
    )  # fmt: skip


def idle_by_default(row: Mapping[str, Any]) -> timedelta:
    """For how long the kernel of a reclaim had been idle, if its policy was the default."""
    return _IDLE_FOR.get(row.get("reason"), Policy().pressure_idle_after)


def stretches(
    rows: Sequence[Mapping[str, Any]],
    idle_for: Callable[[Mapping[str, Any]], timedelta] = idle_by_default,
    until: datetime | None = None,
) -> Iterator[tuple[datetime, datetime, Mapping[str, Any]]]:
    """Beginning, end and a row with the footprint of each stretch of use of one kernel.

    `idle_for` says for how long a kernel had been idle at its reclaim. What came back and was not reclaimed again is
    taken to be in use until `until`; where that is not given, for no time.
    """
    back_at = None
    last = None
    for row in sorted(rows, key=lambda row: row["at"]):
        if row["event"] == Event.RESTORE_DONE:
            back_at, last = row["at"], row
        elif row["event"] == Event.RECLAIM_STARTED:
            used_at = row["at"] - idle_for(row)
            began = used_at if back_at is None else min(back_at, used_at)
            yield began, used_at, row
            back_at = last = None
        elif row["event"] == Event.RECLAIM_REFUSED:
            back_at, last = row["at"], row
    if back_at is not None and last is not None:
        yield back_at, back_at if until is None else max(back_at, until), last
