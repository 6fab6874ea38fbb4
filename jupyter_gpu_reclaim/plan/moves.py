"""Moves of one GPU's kernels: their phases by the product's table, their rows, and the time they take on the link."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import timedelta
from itertools import count
from operator import attrgetter

from jupyter_gpu_reclaim.core.model import Event, Phase, Policy, Reason, Transition
from jupyter_gpu_reclaim.core.pace import WINDOW, measure, track_residence
from jupyter_gpu_reclaim.core.phase import advance
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.seat import Seat, instant, microseconds
from jupyter_gpu_reclaim.plan.tally import Tally
from jupyter_gpu_reclaim.plan.trace import SECOND


class Moves:
    """The link moves one kernel's bytes at a time in each direction; both directions go at once."""

    def __init__(
        self,
        uuid: str,
        machine: Machine,
        policy: Policy,
        tally: Tally,
        rows: list[Transition] | None,
        before: Iterable[Transition],
    ) -> None:
        self._uuid, self._machine, self._policy, self._tally, self._rows = uuid, machine, policy, tally, rows
        self._word = {
            Event.RECLAIM_DONE: round(machine.reclaim_word_seconds * SECOND),
            Event.RESTORE_DONE: round(machine.restore_word_seconds * SECOND),
        }
        self._free_at = {Event.RECLAIM_DONE: 0, Event.RESTORE_DONE: 0}
        self._recent = deque(sorted(before, key=attrgetter("at")))
        self._serial = count()
        self.residence: Mapping[str, timedelta] = {}

    def adopt(self, policy: Policy) -> None:
        """Another policy holds from now on."""
        self._policy = policy

    def start(self, seat: Seat, event: Event, reason: Reason, now: int) -> int:
        """A reclaim or a restore begins. When it will be done."""
        if event is Event.RESTORE_STARTED:
            away = timedelta(microseconds=now - (seat.phase_since or 0))
            self._tally.quick_returns += away <= self._policy.pressure_idle_after
        self.happened(seat, event, now, reason)
        done = Event.RECLAIM_DONE if event is Event.RECLAIM_STARTED else Event.RESTORE_DONE
        begins = max(now + self._word[done], self._free_at[done])
        self._free_at[done] = begins + self._takes(done, seat.footprint)
        return self._free_at[done]

    def done(self, seat: Seat, now: int) -> None:
        """The move under way has come to its end."""
        event = Event.RECLAIM_DONE if seat.phase is Phase.RECLAIMING else Event.RESTORE_DONE
        took = self._takes(event, seat.footprint)
        self.happened(seat, event, now, took=took)
        self._tally.moving += took
        self._tally.moved_bytes += seat.footprint
        self.track_residence(now)

    def cancel(self, seat: Seat, now: int) -> None:
        """The agent rolls a reclaim back when code comes: nothing has been given up until its last step."""
        self.happened(seat, Event.RECLAIM_REFUSED, now, Reason.CANCELLED)
        self._tally.cancelled += 1

    def happened(
        self, seat: Seat, event: Event, now: int, reason: Reason | None = None, took: int | None = None
    ) -> None:
        """Take the kernel through `event`, as the reconciler does."""
        seat.count(now)
        before, seat.phase = seat.phase, advance(seat.phase, event)
        if event is Event.RECLAIM_STARTED:
            seat.resident_since = seat.phase_since
        if seat.phase is not before:
            seat.phase_since = seat.resident_since if event is Event.RECLAIM_REFUSED else now
        self._tally.events[event.value] += 1
        if took is None and self._rows is None:
            return
        row = Transition(
            id=f"{self._uuid}/{next(self._serial)}",
            at=instant(now),
            kernel_id=seat.trace.kernel_id,
            event=event,
            phase=seat.phase,
            reason=reason,
            label=seat.trace.label,
            owner=seat.trace.owner,
            footprint={self._uuid: seat.footprint},
            moved_bytes=None if took is None else seat.footprint,
            took=None if took is None else timedelta(microseconds=took),
        )
        if took is not None:
            self._recent.append(row)
        if self._rows is not None:
            self._rows.append(row)

    def track_residence(self, now: int) -> None:
        """Bring up to date how long whoever comes back stays: moves that are too old to count are forgotten."""
        oldest = instant(now) - WINDOW
        while self._recent and self._recent[0].at <= oldest:
            self._recent.popleft()
        if self._recent or self.residence:
            pace = measure(self._recent, instant(now))
            self.residence = track_residence(pace, self._policy, self.residence)

    def residence_may_end_at(self) -> int | None:
        """When the residence is to be looked at again, since a move will be too old; None: not by time alone."""
        return microseconds(self._recent[0].at + WINDOW) if self.residence and self._recent else None

    def _takes(self, done: Event, size: int) -> int:
        machine = self._machine
        return machine.offload_takes(size) if done is Event.RECLAIM_DONE else machine.onload_takes(size)
