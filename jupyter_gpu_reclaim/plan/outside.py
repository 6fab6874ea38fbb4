"""What comes to one GPU's replay from outside, each at its instant: another policy, a kernel's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from jupyter_gpu_reclaim.core.model import Event, Policy
from jupyter_gpu_reclaim.plan.agenda import GONE, POLICY, Agenda
from jupyter_gpu_reclaim.plan.books import Books
from jupyter_gpu_reclaim.plan.moves import Moves
from jupyter_gpu_reclaim.plan.seat import Seat

NO_OTHERS: Sequence[tuple[int, Policy]] = ()
NEVER_ENDS: Mapping[str, int] = MappingProxyType({})


def announce(
    agenda: Agenda, seats: Sequence[Seat], later: Sequence[tuple[int, Policy]], ends: Mapping[str, int]
) -> None:
    """Put the `later` policies on the agenda, each by its number, and kernels' ends, by kernel id."""
    for number, (at, _) in enumerate(later):
        agenda.add(at, POLICY, number)
    for seat in seats:
        if seat.trace.kernel_id in ends:
            agenda.add(ends[seat.trace.kernel_id], GONE, seat.number)


def end(seat: Seat, books: Books, moves: Moves, now: int) -> None:
    """The kernel is gone, and holds and wants nothing any more."""
    books.forget(seat, now)
    moves.happened(seat, Event.KERNEL_GONE, now)
    seat.begun = seat.running_since = seat.waiting_since = seat.place_wanted = None
    seat.footprint = seat.room_wanted = 0
