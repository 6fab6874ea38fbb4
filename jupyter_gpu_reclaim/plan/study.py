"""The whole question: for each policy asked about, the GPUs needed on each trace, and what they would bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

from jupyter_gpu_reclaim.plan.generator import Habits, generate
from jupyter_gpu_reclaim.plan.sizing import Ask, Sizes, interval, needed_by, needed_by_product, sizes
from jupyter_gpu_reclaim.plan.tally import HOUR, Tally
from jupyter_gpu_reclaim.plan.trace import Trace

Show = Callable[[str], None]

UNCERTAIN: tuple[tuple[str, float, float], ...] = (
    ("busy_median_seconds", 60.0, 240.0),
    ("busy_sigma", 1.0, 1.7),
    ("think_median_seconds", 150.0, 600.0),
    ("break_chance", 0.0, 0.1),
    ("attendance", 0.6, 1.0),
    ("footprint_median", 0.08, 0.3),
    ("footprint_sigma", 0.3, 0.9),
)
"""Of the habits: what each might be as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One policy over several traces. `gpus` is what each was replayed on: as many as asked for, or as needed."""

    name: str
    ask: Ask
    found: tuple[Sizes, ...]
    gpus: tuple[int | None, ...]
    tallies: tuple[Tally, ...]

    def needed(self) -> tuple[float, float] | None:
        """GPUs that the product needs."""
        return _spread([sizes.product for sizes in self.found])

    def baselines(self) -> Iterator[tuple[str, tuple[float, float] | None]]:
        """GPUs that each baseline needs."""
        for number, rule in enumerate(self.ask.rules()):
            yield rule.name, _spread([sizes.baselines[number] for sizes in self.found])

    def figures(self) -> Iterator[tuple[str, str, tuple[float, float]]]:
        """Name, unit, mean and half width of everything else that a replay says."""
        for name, unit, figure in FIGURES:
            values = [figure(tally) for tally in self.tallies]
            if values and all(map(isfinite, values)):
                yield name, unit, interval(values)

    def causes(self) -> dict[str, float]:
        """Hours waited by cause, of all traces together."""
        hours: dict[str, float] = {}
        for tally in self.tallies:
            for cause, span in tally.waited.items():
                hours[cause] = hours.get(cause, 0.0) + span / HOUR
        return hours


FIGURES: tuple[tuple[str, str, Callable[[Tally], float]], ...] = (
    ("cells", "", lambda t: t.cells),
    ("wait of all cells, 50 %", "s", lambda t: t.wait_seconds(0.5)),
    ("wait of all cells, 95 %", "s", lambda t: t.wait_seconds(0.95)),
    ("wait of all cells, 99 %", "s", lambda t: t.wait_seconds(0.99)),
    ("wait of all cells, worst", "s", lambda t: t.wait_seconds(1.0)),
    ("cells that waited at all", "%", lambda t: 100 * len(t.waits) / max(1, t.cells)),
    ("wait of these, 50 %", "s", lambda t: t.wait_seconds(0.5, waited_only=True)),
    ("wait of these, 95 %", "s", lambda t: t.wait_seconds(0.95, waited_only=True)),
    ("waits ended by restore_timeout", "", lambda t: t.ended_waits),
    ("allocations that waited for longer than room_wait", "", lambda t: t.failed_allocations),
    ("held without reclaims", "GiB-hours", lambda t: t.held_gib_hours),
    ("used by running cells", "GiB-hours", lambda t: t.used_gib_hours),
    ("reclaimed, in host memory", "GiB-hours", lambda t: t.reclaimed_gib_hours),
    ("GPUs at work", "% of time", lambda t: 100 * t.utilisation),
    ("cells at once on a GPU at work", "", lambda t: t.running_together),
    ("reclaims", "", lambda t: t.events["reclaim_done"]),
    ("restores", "", lambda t: t.events["restore_done"]),
    ("restores soon after their reclaim", "%", lambda t: 100 * t.quick_returns / max(1, t.events["restore_started"])),
    ("reclaims called off by a cell", "", lambda t: t.cancelled),
    ("GPUs' time spent moving", "%", lambda t: 100 * t.moving_share),
    ("bytes moved", "GiB", lambda t: t.moved_bytes / (1 << 30)),
)  # fmt: skip


def answer(name: str, ask: Ask, traces: Sequence[Trace], gpus: int | None) -> Answer:
    """What `ask` comes to on these traces."""
    found = tuple(sizes(trace, ask) for trace in traces)
    used = tuple(gpus or sized.product for sized in found)
    replayed = tuple(
        ask.replay(trace, number) for trace, number in zip(traces, used, strict=True) if number is not None
    )
    return Answer(name=name, ask=ask, found=found, gpus=used, tallies=replayed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """GPUs needed with one assumption changed; the limit is the pool's in which moves take no time."""

    name: str
    value: float
    product: tuple[float, float] | None
    limit: tuple[float, float] | None


def sensitivity(ask: Ask, users: int, days: int, seeds: Sequence[int], show: Show) -> list[Variation]:
    """Each uncertain figure lower and higher, the others as they are, on made-up teams."""
    found = []
    for name, *values in UNCERTAIN:
        for value in values:
            habits = replace(Habits(), **{name: value})
            found.append(_variation(name, value, ask, users, days, seeds, habits))
            show(variation_line(found[-1]))
    for factor in (0.25, 4.0):
        machine = replace(
            ask.machine,
            offload_speed=ask.machine.offload_speed * factor,
            onload_speed=ask.machine.onload_speed * factor,
        )
        faster = replace(ask, machine=machine)
        found.append(_variation("speed of moves, times", factor, faster, users, days, seeds, Habits()))
        show(variation_line(found[-1]))
    return found


def variation_line(each: Variation) -> str:
    """One variation for people."""
    return f"  {each.name:26}{each.value:8g}  {spread_text(each.product):>14}  limit {spread_text(each.limit):>14}"


def spread_text(spread: tuple[float, float] | None) -> str:
    """`17.4 ± 1.1`; a dash where the target cannot be met."""
    if spread is None:
        return "–"
    middle, half = spread
    return f"{_number(middle)} ± {_number(half)}" if half else _number(middle)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _variation(
    name: str, value: float, ask: Ask, users: int, days: int, seeds: Sequence[int], habits: Habits
) -> Variation:
    traces = [generate(users, days, ask.machine.gpu_bytes, seed, habits) for seed in seeds]
    limits = [needed_by(ask.rules()[-1], trace, ask) for trace in traces]
    products = [needed_by_product(trace, ask, limit) for trace, limit in zip(traces, limits, strict=True)]
    return Variation(name=name, value=value, product=_spread(products), limit=_spread(limits))


def _spread(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return interval(known) if known and len(known) == len(values) else None


@dataclass(slots=True, kw_only=True)
class Curve:
    """Waits at the target's quantile by number of GPUs, of the first trace; infinite where cells are never sent."""

    name: str
    points: list[tuple[int, float]] = field(default_factory=list)


def curves(trace: Trace, ask: Ask, numbers: Sequence[int]) -> list[Curve]:
    """One for the product, then one for each baseline."""
    quantile = ask.target.quantile
    product = Curve(
        name="this extension", points=[(n, ask.replay(trace, n).wait_seconds(quantile)) for n in numbers]
    )
    others = [
        Curve(name=rule.name, points=[(n, ask.pool(trace, n, rule).wait_seconds(quantile)) for n in numbers])
        for rule in ask.rules()
    ]
    return [product, *others]
