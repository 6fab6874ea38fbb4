"""The figures of a report that are about memory, GPUs and waiting, each with what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts, add

GIB_HOUR = (1 << 20) * 3600  # in KiB × seconds
MS_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its unit and what it rests on. `value` None: not known, and `basis` says what is missing."""

    name: str
    value: float | None
    unit: str
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One GPU's amounts in a span that begins at `at` (seconds since 1970), as one server saw it."""

    gpu: str
    at: int
    amounts: GpuAmounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One kernel's amounts on one GPU."""

    kernel_id: str
    label: str
    owner: str
    gpu: str
    amounts: KernelAmounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """All GPUs together over one span, in bytes, for a chart."""

    at: int
    resident_bytes: int
    footprint_bytes: int
    total_bytes: int


def _summed(points: Iterable[Point]) -> GpuAmounts:
    total = GpuAmounts()
    for point in points:
        add(total, point.amounts)
    return total


def _share(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None


def gpu_hours_won_back(points: Iterable[Point]) -> float:
    """Reclaimed bytes as a share of each GPU's memory, times hours."""
    amounts = [point.amounts for point in points if point.amounts.total]
    return sum(a.reclaimed / a.total * a.ms for a in amounts) / MS_HOUR


def capacity(points: Sequence[Point]) -> list[Figure]:
    """Memory won back, memory in use with and without reclaim, and how much of the holding was idle."""
    all_of = _summed(points)
    claimed = all_of.resident + all_of.reclaimed
    on_gpu = "bytes on the GPU, of notebooks and others, ÷ the GPUs' memory"
    return [
        Figure("GPU-hours observed", all_of.ms / MS_HOUR, "GPU-hours", "time for which a GPU's samples exist"),
        Figure("memory won back", all_of.reclaimed / GIB_HOUR, "GiB-hours", "bytes in host memory × time"),
        Figure(
            "GPU-hours won back", gpu_hours_won_back(points), "GPU-hours",
            "the same as a share of each GPU's memory: room for others, not computing time",
        ),
        Figure("memory in use, with reclaim", _share(all_of.resident + all_of.others, all_of.total), "%", on_gpu),
        Figure(
            "memory in use, without it", _share(claimed + all_of.others, all_of.total), "%",
            "had all that was reclaimed stayed; more than 100 would not have fitted",
        ),
        Figure(
            "held by idle notebooks, with reclaim", _share(all_of.idle_ms, all_of.held_ms), "% of time",
            "time in which a GPU was held only by notebooks known to be idle ÷ time in which it was held",
        ),
    ]  # fmt: skip


def gpus_needed(points: Sequence[Point], course: Sequence[Course], step_seconds: int) -> list[Figure]:
    """How many GPUs the same notebooks would have needed by memory alone, at the peak and at the 95th percentile."""
    sizes = {point.gpu: point.amounts.total * 1000 / point.amounts.ms for point in points}
    if not sizes:
        return []
    size = sum(sizes.values()) / len(sizes) * 1024
    divided = f"÷ {size / (1 << 30):.1f} GiB a GPU, by memory alone, packed without gaps"
    figures, needed = [], {}
    for what, chosen in (("resident bytes", "resident_bytes"), ("footprints", "footprint_bytes")):
        values = sorted(getattr(span, chosen) for span in course)
        p95 = values[math.ceil(0.95 * len(values)) - 1]
        for name, value in (("peak", values[-1]), ("95th percentile", p95)):
            needed[what, name] = math.ceil(value / size)
            wording = "with reclaim" if what == "resident bytes" else "without it"
            figures.append(
                Figure(
                    f"GPUs needed, {wording}, {name}",
                    needed[what, name],
                    "GPUs",
                    f"notebooks' {what}, {name} of means over {step_seconds} s, {divided}",
                )
            )
    busy = _summed(points)
    measured = _share(busy.busy, busy.busy_ms)
    without = max(len(sizes), needed["footprints", "peak"])
    figures.append(
        Figure(
            "GPU utilisation, with reclaim",
            measured,
            "%",
            f"NVML's, mean over the GPUs (there are {len(sizes)}) while it was known",
        )
    )
    figures.append(
        Figure(
            "GPU utilisation, without it",
            None if measured is None else measured * len(sizes) / without,
            "%",
            f"the same work on the GPUs that the footprints' peak needs, if more than there are: on {without}",
        )
    )
    return figures


def price_paid(shares: Iterable[Share], restores: int) -> list[Figure]:
    """What it cost the users: time in which they waited."""
    waited = sum(share.amounts.waited_ms for share in shares) / 1000
    return [
        Figure("waiting caused", waited / 3600, "hours", "time in which code of a user waited for its data"),
        Figure(
            "waiting for each restore", waited / restores if restores else None, "s",
            f"that time ÷ {restores} restores in the log",
        ),
    ]  # fmt: skip
