"""The log's filters, for rows that are not in the database."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from jupyter_gpu_reclaim.core.model import Event, Reason, Transition


def matches(
    row: Transition,
    *,
    kernel_id: str | None = None,
    gpu: str | None = None,
    reason: Reason | None = None,
    events: Iterable[Event] = (),
    owner: str | None = None,
    whose: str | None = None,
    label: str | None = None,
    mechanism: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> bool:
    """Whether `ReclaimLog.query` with these filters would give the row."""
    wanted = tuple(events)
    return (
        kernel_id in (None, row.kernel_id)
        and (gpu is None or gpu in row.footprint)
        and reason in (None, row.reason)
        and (not wanted or row.event in wanted)
        and owner in (None, row.owner)
        and (whose is None or row.owner in ("", whose))
        and label in (None, row.label)
        and mechanism in (None, row.mechanism)
        and (since is None or row.at >= since)
        and (until is None or row.at < until)
    )
