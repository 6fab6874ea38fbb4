"""Bytes × time → capacity, waiting, energy, carbon and money: each figure with the assumption that it rests on.

These are different things and never added up. Reclaimed memory is *capacity*: room that somebody could use. Energy is
saved only where a mechanism frees the whole context of a process and nobody else uses the GPU meanwhile. What a figure
needs and nobody has said (a price, a grid) leaves it out; what was not observed counts nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from jupyter_gpu_reclaim.core.energy import Assumptions, energy, money
from jupyter_gpu_reclaim.core.figures import (
    GIB_HOUR,
    MS_HOUR,
    Course,
    Figure,
    Point,
    Share,
    capacity,
    gpus_needed,
    price_paid,
)
from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts, add


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """GiB-hours of one user, notebook or GPU, and the hours for which its code waited."""

    name: str
    held_gib_hours: float  # on the GPU
    used_gib_hours: float  # of these, not known to be idle
    reclaimed_gib_hours: float
    waited_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a time brought. `simulated`: some of the GPUs were."""

    since: datetime
    until: datetime
    step_seconds: int
    simulated: bool
    figures: tuple[Figure, ...]
    users: tuple[Use, ...]
    notebooks: tuple[Use, ...]
    gpus: tuple[Use, ...]
    course: tuple[Course, ...]


def report(
    *,
    since: datetime,
    until: datetime,
    step_seconds: int,
    points: Sequence[Point],
    shares: Sequence[Share],
    gpu_names: Mapping[str, tuple[str, bool]],
    restores: int,
    assumptions: Assumptions,
) -> Report:
    """The report of a time from its samples. `gpu_names`: UUID → (name, whether simulated); `restores`: how many."""
    points = merged(points)
    course = _course(points)
    seen = {point.gpu for point in points}
    names = {uuid: gpu_names.get(uuid, ("", False))[0] for uuid in seen}
    return Report(
        since=since,
        until=until,
        step_seconds=step_seconds,
        simulated=any(gpu_names.get(uuid, ("", False))[1] for uuid in seen),
        figures=(
            *capacity(points),
            *gpus_needed(points, course, step_seconds),
            *price_paid(shares, restores),
            *energy(points, names, assumptions),
            money(points, assumptions),
        ),
        users=_uses((share.owner or "(not known)", share) for share in shares),
        notebooks=_uses((share.label or "(not known)", share) for share in shares),
        gpus=_uses((share.gpu, share) for share in shares),
        course=course,
    )


def merged(points: Iterable[Point]) -> tuple[Point, ...]:
    """One point a GPU and span, where several servers saw the same GPU, each its own kernels; in the order of time.

    Kernels' bytes add up; what is the GPU's own is taken from the server that watched longest; it was idle only as far
    as no server's kernels were at work, and bare only if no server says otherwise.
    """
    together: dict[tuple[int, str], list[GpuAmounts]] = {}
    for point in points:
        if point.amounts.ms:
            together.setdefault((point.at, point.gpu), []).append(point.amounts)
    return tuple(Point(gpu=gpu, at=at, amounts=_one(seen)) for (at, gpu), seen in sorted(together.items()))


def _one(seen: list[GpuAmounts]) -> GpuAmounts:
    longest = max(seen, key=lambda amounts: amounts.ms)
    if len(seen) == 1:
        return longest
    resident, reclaimed = sum(a.resident for a in seen), sum(a.reclaimed for a in seen)
    held = min(longest.ms, max(a.held_ms for a in seen))
    at_work = min(held, sum(a.held_ms - a.idle_ms for a in seen))
    others = max(0, longest.others + longest.resident - resident)
    bare = longest.bare_ms if resident == others == 0 else 0
    return replace(
        longest,
        resident=resident,
        reclaimed=reclaimed,
        others=others,
        held_ms=held,
        idle_ms=held - at_work,
        bare_ms=bare,
    )


def _course(points: Sequence[Point]) -> tuple[Course, ...]:
    spans: dict[int, list[GpuAmounts]] = {}
    for point in points:
        spans.setdefault(point.at, []).append(point.amounts)

    def mean(name: str, amounts: GpuAmounts) -> int:
        return getattr(amounts, name) * 1_024_000 // amounts.ms

    return tuple(
        Course(
            at=at,
            resident_bytes=sum(mean("resident", a) for a in amounts),
            footprint_bytes=sum(mean("resident", a) + mean("reclaimed", a) for a in amounts),
            total_bytes=sum(mean("total", a) for a in amounts),
        )
        for at, amounts in sorted(spans.items())
    )


def _uses(named: Iterable[tuple[str, Share]]) -> tuple[Use, ...]:
    """Sums by name, most held first."""
    sums: dict[str, KernelAmounts] = {}
    for name, share in named:
        add(sums.setdefault(name, KernelAmounts()), share.amounts)
    uses = [
        Use(
            name=name,
            held_gib_hours=a.resident / GIB_HOUR,
            used_gib_hours=(a.resident - a.idle) / GIB_HOUR,
            reclaimed_gib_hours=a.reclaimed / GIB_HOUR,
            waited_hours=a.waited_ms / MS_HOUR,
        )
        for name, a in sums.items()
    ]
    return tuple(sorted(uses, key=lambda use: (-use.held_gib_hours - use.reclaimed_gib_hours, use.name)))
