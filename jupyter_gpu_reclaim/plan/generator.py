"""Days of a team that never was, drawn from published statistics; what is not published is marked as assumed.

It is not a recording of anybody: the medians and quartiles of cells are those that we recall of the trace that
NotebookOS was judged by (arXiv 2503.20591) and could not confirm in its text; the day around them is ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from math import exp, log

from jupyter_gpu_reclaim.plan.trace import SECOND, Trace, TraceKernel

HOUR, DAY = 3600.0, 86400.0
NOTEBOOKOS = "recalled of the AdobeTrace in NotebookOS, arXiv 2503.20591, not confirmed: "
ASSUMED = "assumed"


def _said(default: float, source: str) -> float:
    return field(default=default, metadata={"source": source})


@dataclass(frozen=True, slots=True)
class Habits:
    """How a team works. Each figure has its source in the field's metadata."""

    busy_median_seconds: float = _said(120.0, NOTEBOOKOS + "median length of a GPU task")
    busy_sigma: float = _said(1.36, NOTEBOOKOS + "75th percentile 300 s, as the width of a lognormal")
    busy_longest_seconds: float = _said(4 * HOUR, ASSUMED + ": a longer cell is left to a batch system")
    think_median_seconds: float = _said(300.0, NOTEBOOKOS + "median time between tasks of a session")
    think_sigma: float = _said(0.70, NOTEBOOKOS + "75th percentile 480 s, as the width of a lognormal")
    break_chance: float = _said(0.04, ASSUMED + ": share of rests that are a meeting or another task")
    break_median_seconds: float = _said(2700.0, ASSUMED)
    break_sigma: float = _said(0.5, ASSUMED)
    day_begins_hour: float = _said(9.0, ASSUMED + ", with a standard deviation of an hour")
    day_hours: float = _said(8.0, ASSUMED + ", with a standard deviation of an hour, lunch included")
    lunch_seconds: float = _said(HOUR, ASSUMED + ", about the middle of the day")
    attendance: float = _said(0.8, ASSUMED + ": chance that a person uses their notebook on a working day")
    footprint_median: float = _said(0.15, ASSUMED + ": share of a GPU's memory")
    footprint_sigma: float = _said(0.6, ASSUMED)
    footprint_largest: float = _said(0.9, ASSUMED)

    def explained(self) -> list[tuple[str, float, str]]:
        """Name, value, source of each."""
        values = asdict(self)
        return [(each.name, values[each.name], each.metadata["source"]) for each in fields(self)]


def generate(users: int, days: int, gpu_bytes: int, seed: int, habits: Habits | None = None) -> Trace:
    """One kernel for each user, over `days` from a Monday on. Equal arguments give equal traces."""
    habits = habits or Habits()
    kernels = []
    for number in range(users):
        rng = random.Random(f"{seed}/{number}")  # a person's days are the same in a larger team
        share = min(
            _lognormal(rng, habits.footprint_median, habits.footprint_sigma), habits.footprint_largest
        )
        name, held = f"user-{number:06d}", int(share * gpu_bytes)
        kernel = TraceKernel(name, name, f"{name}.ipynb")
        for rest, busy in _cells(rng, days, habits):
            kernel.add(round(rest * SECOND), round(busy * SECOND), held)
        kernels.append(kernel)
    return Trace(tuple(kernels), round(days * DAY) * SECOND)


def _lognormal(rng: random.Random, median: float, sigma: float) -> float:
    return exp(rng.gauss(log(median), sigma))


def _cells(rng: random.Random, days: int, habits: Habits) -> Iterator[tuple[float, float]]:
    free_at = 0.0
    for day in range(days):
        if day % 7 >= 5 or rng.random() >= habits.attendance:
            continue
        now = day * DAY + HOUR * max(0.0, rng.gauss(habits.day_begins_hour, 1.0))
        length = HOUR * min(max(1.0, rng.gauss(habits.day_hours, 1.0)), 14.0)
        evening, lunch, fed = now + length, now + length / 2, False
        now = max(now, free_at)
        while now < evening:
            busy = min(
                _lognormal(rng, habits.busy_median_seconds, habits.busy_sigma), habits.busy_longest_seconds
            )
            yield now - free_at, busy
            free_at = now = now + busy
            now += _rest(rng, habits)
            if not fed and now >= lunch:
                now, fed = now + habits.lunch_seconds, True


def _rest(rng: random.Random, habits: Habits) -> float:
    if rng.random() < habits.break_chance:
        return _lognormal(rng, habits.break_median_seconds, habits.break_sigma)
    return _lognormal(rng, habits.think_median_seconds, habits.think_sigma)
