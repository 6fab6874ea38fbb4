"""What comes to one GPU's replay from outside, each at its instant: another policy, a kernel's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jupyter_gpu_reclaim.core.model import Event, Policy, Transition
from jupyter_gpu_reclaim.plan.agenda import GONE, POLICY, Agenda
from jupyter_gpu_reclaim.plan.books import Books
from jupyter_gpu_reclaim.plan.moves import Moves
from jupyter_gpu_reclaim.plan.seat import Seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a replay is told beside the cells. Instants are the trace's, in microseconds or added to `BEGINNING`."""

    begin_reclaimed: bool = False  # what each kernel's first cell holds is in host memory from the beginning
    before: Sequence[
        Transition
    ] = ()  # moves done before the beginning, by which it is judged how much is moved
    later: Sequence[
        tuple[int, Policy]
    ] = ()  # policies that take the first one's place, each from its instant on
    ends: Mapping[str, int] = field(default_factory=dict)  # when kernels end, by id

    def announce(self, agenda: Agenda, seats: Sequence[Seat]) -> None:
        """Put the later policies on the agenda, each by its number, and the kernels' ends."""
        for number, (at, _) in enumerate(self.later):
            agenda.add(at, POLICY, number)
        for seat in seats:
            if seat.trace.kernel_id in self.ends:
                agenda.add(self.ends[seat.trace.kernel_id], GONE, seat.number)


NOTHING = Outside()


def end(seat: Seat, books: Books, moves: Moves, now: int) -> None:
    """The kernel is gone, and holds and wants nothing any more."""
    books.forget(seat, now)
    moves.happened(seat, Event.KERNEL_GONE, now)
    seat.begun = seat.running_since = seat.waiting_since = seat.place_wanted = None
    seat.footprint = seat.room_wanted = 0
