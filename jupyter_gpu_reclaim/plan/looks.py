"""When a replay's loop is to look though nothing has happened: the core says when time alone may change an act."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.horizon import next_change
from jupyter_gpu_reclaim.core.model import Holding, Phase, Policy
from jupyter_gpu_reclaim.plan.agenda import LOOK, SEEN, Agenda
from jupyter_gpu_reclaim.plan.seat import Seat, instant, microseconds
from jupyter_gpu_reclaim.plan.trace import SECOND


class Looks:
    """The looks of one GPU's loop at ticks. Of those for all kernels together only the last planned counts."""

    def __init__(self, uuid: str, agenda: Agenda, policy: Policy, span: int, idle_seen_after: int) -> None:
        self._uuid, self._agenda, self._span, self._idle_seen_after = uuid, agenda, span, idle_seen_after
        self._common_at: int | None = None
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """This policy holds from now on."""
        self._policy = policy
        first = first_look(self._uuid, policy)
        self._first = self._span if first is None else first
        self.limit = microseconds_of(policy.restore_timeout)  # of a wait at the gate; 0: none
        quick = microseconds_of(policy.pressure_idle_after)
        self._soonest = min(quick, microseconds_of(policy.idle_after))
        self.at_once = bool(policy.max_running_per_gpu or not quick or not policy.idle_after)
        """Whether a cell's end may bring an act at once where somebody waits."""

    def is_common(self, now: int) -> bool:
        """Whether a look for all of them that is due `now` still counts."""
        return now == self._common_at

    def after_cell(self, seat: Seat, now: int) -> None:
        """Ask when the kernel's rest may first bring an act, and when its idleness is seen, if that comes later."""
        self._after(seat, now + self._first)
        if self._idle_seen_after > self._soonest:
            seat.unseen = True
            self._agenda.add(now + self._idle_seen_after, SEEN, seat.number, seat.generation)

    def for_each(self, seats: Iterable[Seat], now: int) -> None:
        """With nobody short of room no kernel's time depends on another's: ask for each by itself."""
        for seat in seats:
            if seat.look_at <= now and seat.running_since is None and seat.phase is Phase.RESIDENT:
                at = of_one(seat, self._policy, now)
                if at is not None:
                    self._after(seat, at)

    def for_all(
        self,
        seats: Collection[Seat],
        now: int,
        short_since: Mapping[str, datetime],
        residence: Mapping[str, timedelta],
        residence_may_end_at: int | None,
    ) -> None:
        """Ask at the first tick at which time alone may bring an act while somebody is short of room."""
        due = of_all(seats, self._policy, now, short_since, residence)
        if residence_may_end_at is not None:
            due.append(residence_may_end_at)
        due = [self._agenda.tick_from(at) for at in due]
        due += waits_end(seats, self.limit)  # the loop wakes for these
        self._common_at = min(due, default=None)
        if self._common_at is not None:
            self._agenda.add(self._common_at, LOOK, -1)

    def for_headroom(self, now: int, free: int, short_since: Mapping[str, datetime]) -> None:
        """The loop sees at its next tick that the GPU has come to be short of headroom, or is so no more."""
        wanted = self._policy.headroom_bytes
        if wanted and (free < wanted) is not (self._uuid in short_since):
            self._agenda.look(now + 1)

    def _after(self, seat: Seat, at: int) -> None:
        """Ask at the tick after `at`, unless the kernel's next cell comes before: then it is idle no more."""
        seat.look_at = min(self._agenda.tick_from(at), seat.comes_at)
        if seat.look_at < seat.comes_at:
            self._agenda.add(seat.look_at, LOOK, seat.number, seat.generation)


def microseconds_of(span: timedelta) -> int:
    """A setting's span as a replay counts it."""
    return round(span.total_seconds() * SECOND)


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
    return [since + limit for seat in seats if (since := seat.waits_at_gate_since) is not None]
