"""What else a team could do with its GPUs, replayed over the same cells: pools in which a GPU goes to whoever asks.

All of them are kinder than the real thing: any GPU serves any notebook (but for the one limit that says otherwise), and
only what is named costs time.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count

from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.homes import placed
from jupyter_gpu_reclaim.plan.tally import percentile
from jupyter_gpu_reclaim.plan.trace import SECOND, Trace

NEVER = -1
MINUTE = 60 * SECOND


def _numbers() -> array:
    return array("q")


def _free(size: int) -> int:
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a pool works. A kernel that has a place gives it up `hold_after` microseconds after its last cell."""

    name: str
    hold_after: int  # NEVER: it keeps it
    takes: Callable[[int], int] = _free  # microseconds from getting a place until the cell runs, by bytes
    loses_work: bool = False  # giving the place up ends the kernel
    by_bytes: bool = False  # a kernel takes its bytes of the GPUs' memory together, not a place
    places_per_gpu: int = 1
    bound: bool = (
        False  # each kernel may use the GPU only that the product is given for it, so there are many pools
    )


@dataclass(slots=True, kw_only=True)
class PoolTally:
    """What came of it; times in microseconds."""

    cells: int = 0  # that were sent
    cells_late: int = 0  # that were not: the time was over
    waits: array = field(default_factory=_numbers)  # of cells that waited at all
    reserved: int = 0  # time × places (or bytes)
    given_up: int = 0  # places given up by idle kernels
    lost: int = 0  # work of kernels that were ended: cells run since their start

    def add(self, other: PoolTally) -> None:
        """Take in another pool's."""
        for name in ("cells", "cells_late", "reserved", "given_up", "lost"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.waits.extend(other.waits)

    def wait_seconds(self, quantile: float, waited_only: bool = False) -> float:
        """As of a `Tally`."""
        prompt = 0 if waited_only else self.cells - len(self.waits)
        return percentile(sorted(self.waits), quantile, prompt, self.cells_late)


def rules(machine: Machine, cull_after: int, places: int) -> list[Rule]:
    """The baselines. `places` is `max_running_per_gpu`, which the limit is given, too; 0: memory alone limits it."""
    minutes = f"{cull_after / MINUTE:g} min"
    limit = Rule(
        name="limit: all GPUs as one, moves take no time",
        hold_after=0,
        by_bytes=not places,
        places_per_gpu=places or 1,
    )
    return [
        Rule(name="one GPU per notebook", hold_after=NEVER),
        Rule(name=f"culled after {minutes} idle, work lost", hold_after=cull_after, loses_work=True),
        Rule(name="taken back after 30 min idle, at no cost", hold_after=30 * MINUTE),
        Rule(name="bound for each cell (as NotebookOS)", hold_after=0, takes=machine.onload_takes),
        replace(limit, name="limit: kernels keep their GPU, moves take no time", bound=True),
        limit,
    ]


def pool(trace: Trace, gpus: int, gpu_bytes: int, rule: Rule) -> PoolTally:
    """The trace's cells through a pool of so many GPUs, first come, first served."""
    of_one = gpu_bytes if rule.by_bytes else rule.places_per_gpu
    if not rule.bound:
        return _Pool(trace, gpus * of_one, rule).run()
    total = PoolTally()
    for kernels in placed(trace.kernels, gpus, 0 if rule.by_bytes else rule.places_per_gpu):
        total.add(_Pool(Trace(tuple(kernels), trace.span), of_one, rule).run())
    return total


_ARRIVAL, _END, _GIVE_UP = range(3)


class _Pool:
    def __init__(self, trace: Trace, capacity: int, rule: Rule) -> None:
        self._trace, self._free, self._rule = trace, capacity, rule
        self._capacity = capacity
        self._events: list[tuple[int, int, int, int, int]] = []
        self._serial = count()
        size = len(trace.kernels)
        self._cell, self._arrived, self._generation = [0] * size, [0] * size, [0] * size
        self._taken = [0] * size  # places or bytes
        self._taken_since, self._worked = [0] * size, [0] * size
        self._line: deque[int] = deque()
        self.tally = PoolTally()

    def run(self) -> PoolTally:
        for number in range(len(self._cell)):
            self._plan_cell(number, 0)
        while self._events and self._events[0][0] < self._trace.span:
            now, _, kind, number, generation = heappop(self._events)
            if kind == _ARRIVAL:
                self._arrive(number, now)
            elif kind == _END:
                self._end(number, now)
            elif kind == _GIVE_UP and generation == self._generation[number]:
                self._give_up(number, now)
        for number, taken in enumerate(self._taken):
            self.tally.reserved += taken * (self._trace.span - self._taken_since[number])
        self.tally.waits.extend(self._trace.span - self._arrived[number] for number in self._line)
        self.tally.cells_late = self._trace.cells - self.tally.cells
        return self.tally

    def _push(self, at: int, kind: int, number: int) -> None:
        heappush(self._events, (at, next(self._serial), kind, number, self._generation[number]))

    def _plan_cell(self, number: int, now: int) -> None:
        kernel, cell = self._trace.kernels[number], self._cell[number]
        if cell < len(kernel.rests):
            self._push(now + kernel.rests[cell], _ARRIVAL, number)

    def _need(self, number: int) -> int:
        held = self._trace.kernels[number].held[self._cell[number]]
        return min(held, self._capacity) if self._rule.by_bytes else 1

    def _arrive(self, number: int, now: int) -> None:
        self.tally.cells += 1
        self._generation[number] += 1
        self._arrived[number] = now
        if self._taken[number]:
            self._begin(number, now, now)
        else:
            self._line.append(number)
            self._serve(now)

    def _serve(self, now: int) -> None:
        while self._line and self._need(self._line[0]) <= self._free:
            number = self._line.popleft()
            self._taken[number], self._taken_since[number] = self._need(number), now
            self._free -= self._taken[number]
            takes = self._rule.takes(self._trace.kernels[number].held[self._cell[number]])
            self._begin(number, now, now + takes)

    def _begin(self, number: int, now: int, starts: int) -> None:
        if starts > self._arrived[number]:
            self.tally.waits.append(starts - self._arrived[number])
        self._push(starts + self._trace.kernels[number].busy[self._cell[number]], _END, number)

    def _end(self, number: int, now: int) -> None:
        self._worked[number] += self._trace.kernels[number].busy[self._cell[number]]
        self._cell[number] += 1
        self._plan_cell(number, now)
        if self._rule.hold_after == 0:
            self._give_up(number, now)
        elif self._rule.hold_after != NEVER:
            self._push(now + self._rule.hold_after, _GIVE_UP, number)

    def _give_up(self, number: int, now: int) -> None:
        self._free += self._taken[number]
        self.tally.reserved += self._taken[number] * (now - self._taken_since[number])
        self._taken[number] = 0
        self.tally.given_up += 1
        if self._rule.loses_work:
            self.tally.lost += self._worked[number]
            self._worked[number] = 0
        self._serve(now)
