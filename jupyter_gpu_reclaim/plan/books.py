"""One GPU's accounts in a replay: bytes on it and in host memory, cells that run, and whoever waits, by cause."""

from __future__ import annotations

from collections.abc import Collection

from jupyter_gpu_reclaim.core.model import Phase
from jupyter_gpu_reclaim.plan.seat import Seat, State
from jupyter_gpu_reclaim.plan.tally import Tally


class Books:
    """`used` are bytes on the GPU, `away` bytes in host memory, `waiting` how many kernels' users wait."""

    def __init__(self, tally: Tally, used: int) -> None:
        self.used, self.away, self.waiting = used, 0, 0
        self._tally = tally
        self._running, self._running_since = 0, 0

    # -- bytes and cells --------------------------------------------------------------------------------------------

    def moved(self, size: int, leaves: bool) -> None:
        """So many bytes left the GPU for host memory, or came back."""
        self.used -= size if leaves else -size
        self.away += size if leaves else -size

    def runs(self, now: int, change: int) -> None:
        """One cell more (+1) or fewer (-1) runs from now on."""
        self._tally.running[self._running] += now - self._running_since
        self._running, self._running_since = self._running + change, now

    # -- waits ------------------------------------------------------------------------------------------------------

    def wait(self, seat: Seat, cause: str) -> None:
        """Its user, who has not waited so far, waits from the cell's arrival on."""
        seat.cause = cause
        self.waiting += 1

    def because(self, seat: Seat, cause: str | None, now: int) -> None:
        """What it waits for from now on; None: nothing any more."""
        if seat.cause is not None:
            span = now - seat.cause_since
            if span:
                self._tally.waited[seat.cause] += span
                seat.waited += span
        seat.cause, seat.cause_since = cause, now

    def no_longer(self, seat: Seat, now: int) -> None:
        """It waits no more, if it did."""
        if seat.cause is not None:
            self.because(seat, None, now)
            self.waiting -= 1

    def end_waits(self, seats: Collection[Seat], limit: int, now: int) -> None:
        """What has waited for `limit` fails; its user runs the cell again at once, at the end of the line. 0: none."""
        if not limit or not self.waiting:
            return
        for seat in seats:
            since = seat.waits_at_gate_since
            if since is not None and now - since >= limit:
                seat.ask_again(now)
                self._tally.ended_waits += 1

    # -- ends -------------------------------------------------------------------------------------------------------

    def forget(self, seat: Seat, now: int) -> None:
        """The kernel ends: its memory is free, wherever it was; a cell that waited has waited until now."""
        if seat.running_since is not None:
            self.runs(now, -1)
        if seat.cause is not None:
            self.no_longer(seat, now)
            self._tally.waits.append(seat.waited)
        if seat.phase in (Phase.RESIDENT, Phase.RECLAIMING):
            self.used -= seat.footprint
        else:
            self.away -= seat.footprint

    def close(self, seats: list[Seat], now: int) -> None:
        """The replay is over. Whoever still waits has waited at least so long."""
        tally = self._tally
        for seat in seats:
            seat.count(now)
            if seat.waits or seat.phase is Phase.RESTORING:
                self.because(seat, None, now)
                tally.waits.append(seat.waited)
            for state in State:
                tally.time[state] += seat.time[state]
                tally.byte_time[state] += seat.byte_time[state]
        self.runs(now, 0)
        tally.cells_late = sum(len(seat.trace.rests) for seat in seats) - tally.cells
