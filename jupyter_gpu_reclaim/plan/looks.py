"""When a replay's loop is to look though nothing has happened: the core says when time alone may change an act."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.horizon import next_change
from jupyter_gpu_reclaim.core.model import Holding, Phase, Policy
from jupyter_gpu_reclaim.plan.seat import Seat, instant, microseconds


def first_look(uuid: str, policy: Policy) -> int | None:
    """How long after a cell's end time alone may first bring an act, with nobody short of room; None: never."""
    idle = Holding(
        kernel_id="",
        label="",
        footprint={uuid: 1},
        managed=True,
        mechanism="any",
        background_work=(),
        gpu_busy=False,
        last_active_at=instant(0),
    )
    change = next_change([idle], policy, instant(0) - timedelta(microseconds=1))
    return None if change is None else microseconds(change)


def of_one(seat: Seat, policy: Policy, now: int) -> int | None:
    """As `first_look`, for a kernel that was looked at before."""
    change = next_change((seat.holding(),), policy, instant(now))
    return None if change is None else microseconds(change)


def of_all(
    seats: Collection[Seat],
    policy: Policy,
    now: int,
    short_since: Mapping[str, datetime],
    residence: Mapping[str, timedelta],
) -> list[int]:
    """Instants, one of them the first at which time alone may bring an act while somebody is short of room."""
    idle = [seat.holding() for seat in seats if seat.running_since is None or seat.waits]
    change = next_change(idle, policy, instant(now), short_since, residence)
    return [] if change is None else [microseconds(change)]


def waits_end(seats: Collection[Seat], limit: int) -> list[int]:
    """When each wait at a gate has lasted `limit` microseconds; none do where that is 0."""
    if not limit:
        return []
    return [since + limit for seat in seats if (since := waits_at_gate_since(seat)) is not None]


def waits_at_gate_since(seat: Seat) -> int | None:
    """Since when its code has waited for its data or for a place, without being on its way."""
    if seat.phase is Phase.RECLAIMED:
        return seat.waiting_since
    return seat.place_wanted if seat.phase is Phase.RESIDENT else None
