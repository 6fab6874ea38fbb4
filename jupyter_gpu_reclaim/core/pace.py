"""How fast bytes have moved of late, and how much of each GPU's time that took. Folds over recent transitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median

from jupyter_gpu_reclaim.core.model import Event, Policy, Transition

WINDOW = timedelta(minutes=2)
"""Traffic is judged by this much of the past."""
_MOVED = (Event.RECLAIM_DONE, Event.RESTORE_DONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What moved from and to one GPU within `WINDOW`."""

    restores_per_minute: float = 0.0
    moving_share: float = 0.0  # of the GPU's time, 0..1; moves side by side count each
    cycle: timedelta = timedelta(0)  # what a restore and a reclaim took together, as a mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """`offload` and `onload` are bytes per second, the median of all moves known; None: none has been measured."""

    offload: float | None = None
    onload: float | None = None
    traffic: Mapping[str, Traffic] = field(default_factory=dict)  # by GPU, where anything moved


def measure(rows: Iterable[Transition], now: datetime) -> Pace:
    """The pace that these rows of the log show, in any order, others among them."""
    moves = [row for row in rows if row.event in _MOVED and row.took is not None]
    recent = [row for row in moves if now - row.at < WINDOW]
    gpus = {uuid for row in recent for uuid, n in row.footprint.items() if n}
    return Pace(
        offload=_speed(row for row in moves if row.event is Event.RECLAIM_DONE),
        onload=_speed(row for row in moves if row.event is Event.RESTORE_DONE),
        traffic={uuid: _traffic([row for row in recent if row.footprint.get(uuid)]) for uuid in sorted(gpus)},
    )


def track_residence(pace: Pace, policy: Policy, residence: Mapping[str, timedelta]) -> dict[str, timedelta]:
    """{GPU: how long whoever comes back stays at least}, for GPUs where moving takes too much of the time.

    It begins above `max_moving_share` and, given what the last round returned, ends below half of it, so that it does
    not come and go. It is at least `quantum`, and so long that moves of the length measured stay within that share;
    but never more than half of `restore_timeout`, so that whoever waits meanwhile gets a turn.
    """
    share = policy.max_moving_share
    if not share:
        return {}
    longest = policy.restore_timeout / 2 if policy.restore_timeout else timedelta.max
    return {
        uuid: min(
            max(policy.quantum, seen.cycle * ((1 - share) / share), residence.get(uuid, timedelta(0))),
            longest,
        )
        for uuid, seen in pace.traffic.items()
        if seen.moving_share > (share / 2 if uuid in residence else share)
    }


def _traffic(rows: list[Transition]) -> Traffic:
    spent = {
        event: sum((r.took for r in rows if r.event is event and r.took is not None), timedelta(0))
        for event in _MOVED
    }
    counts = {event: sum(r.event is event for r in rows) for event in _MOVED}
    return Traffic(
        restores_per_minute=counts[Event.RESTORE_DONE] / (WINDOW / timedelta(minutes=1)),
        moving_share=min(1.0, sum(spent.values(), timedelta(0)) / WINDOW),
        cycle=sum((spent[event] / counts[event] for event in _MOVED if counts[event]), timedelta(0)),
    )


def _speed(rows: Iterable[Transition]) -> float | None:
    speeds = [row.moved_bytes / row.took.total_seconds() for row in rows if row.moved_bytes and row.took]
    return median(speeds) if speeds else None
