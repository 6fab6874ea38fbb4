"""What a replay is asked for: waits by cause, bytes by time, moves. Sums are exact, and add up over GPUs."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf

from jupyter_gpu_reclaim.plan.seat import State
from jupyter_gpu_reclaim.plan.trace import SECOND

HOUR = 3600 * SECOND
GIB_HOUR = (1 << 30) * HOUR


def _numbers() -> array:
    return array("q")


def _zeros() -> list[int]:
    return [0] * len(State)


@dataclass(slots=True, kw_only=True)
class Tally:
    """Times in microseconds, bytes × time in bytes × microseconds."""

    cells: int = 0  # that were sent
    cells_late: int = 0  # that were not: the time was over
    waits: array = field(default_factory=_numbers)  # of the cells that waited at all
    waited: Counter[str] = field(default_factory=Counter)  # time, by cause
    time: list[int] = field(default_factory=_zeros)  # of kernels, by state
    byte_time: list[int] = field(default_factory=_zeros)
    gpu_time: int = 0  # GPUs × the time of the replay
    running: Counter[int] = field(
        default_factory=Counter
    )  # time of GPUs, by the number of cells running there
    events: Counter[str] = field(default_factory=Counter)  # rows of the log, by event
    quick_returns: int = (
        0  # restores within the pressure idle time of their reclaim's end: bytes moved for little
    )
    moving: int = 0  # time that GPUs' links moved bytes, both ways added
    moved_bytes: int = 0
    cancelled: int = 0  # reclaims called off since a cell came
    failed_allocations: int = 0  # waits of running code for room that the product ends with an out of memory
    ended_waits: int = 0  # waits that `restore_timeout` ended; the person asked again at once
    rounds: int = 0  # calls of `decide()`

    def add(self, other: Tally) -> None:
        """Take in another GPU's."""
        for name in ("cells", "cells_late", "gpu_time", "quick_returns", "moving", "moved_bytes", "cancelled",
                     "failed_allocations", "ended_waits", "rounds"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.waits.extend(other.waits)
        for name in ("waited", "running", "events"):
            getattr(self, name).update(getattr(other, name))
        for mine, others in ((self.time, other.time), (self.byte_time, other.byte_time)):
            for state, amount in enumerate(others):
                mine[state] += amount

    # -- figures ----------------------------------------------------------------------------------------------------

    def wait_seconds(self, quantile: float, waited_only: bool = False) -> float:
        """The wait that this share of cells (or of those that waited at all) did not exceed.

        A cell that never came to be sent, since those before it took too long, has waited for ever.
        """
        prompt = 0 if waited_only else self.cells - len(self.waits)
        return percentile(sorted(self.waits), quantile, prompt, self.cells_late)

    def share_of_waits_above(self, seconds: float) -> float:
        """Of all cells, 0..1."""
        late = self.cells_late + sum(wait > seconds * SECOND for wait in self.waits)
        return late / (self.cells + self.cells_late) if self.cells else 0.0

    @property
    def held_gib_hours(self) -> float:
        """What the kernels would hold all the time without reclaims."""
        return sum(self.byte_time) / GIB_HOUR

    @property
    def used_gib_hours(self) -> float:
        """Of that, while code ran."""
        return self.byte_time[State.RUNNING] / GIB_HOUR

    @property
    def reclaimed_gib_hours(self) -> float:
        """Of that, in host memory."""
        return self.byte_time[State.RECLAIMED] / GIB_HOUR

    @property
    def utilisation(self) -> float:
        """Share of the GPUs' time in which at least one cell ran there."""
        return 1 - self.running[0] / self.gpu_time if self.gpu_time else 0.0

    @property
    def running_together(self) -> float:
        """Cells running on a GPU where any runs, as a mean over time: they slow each other by at most so much."""
        busy = sum(time for number, time in self.running.items() if number)
        return sum(number * time for number, time in self.running.items()) / busy if busy else 0.0

    @property
    def moving_share(self) -> float:
        """Share of the GPUs' time for which bytes were moved, each direction counted."""
        return self.moving / self.gpu_time if self.gpu_time else 0.0


def percentile(ordered_waits: Sequence[int], quantile: float, prompt: int, never: int) -> float:
    """Nearest rank, in seconds, among these waits, so many cells that waited for nothing, and so many for ever."""
    among = prompt + len(ordered_waits) + never
    rank = max(1, ceil(quantile * among)) - prompt
    if rank < 1 or not among:
        return 0.0
    return ordered_waits[rank - 1] / SECOND if rank <= len(ordered_waits) else inf
