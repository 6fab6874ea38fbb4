"""What was held over time: successive snapshots, integrated over spans of ten seconds.

Amounts add up: bytes are KiB × seconds, states are milliseconds, so that a longer span is the sum of shorter ones. What
a snapshot shows holds until the next; a gap between two that is longer than `longest` was not observed and counts
nowhere. Unknown never counts as idle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from jupyter_gpu_reclaim.core.model import Gpu, Holding, Phase, Snapshot

SPAN_SECONDS = 10
FREES_CONTEXT = frozenset({"process_checkpoint", "hybrid"})
"""Mechanisms after which a process holds nothing on the GPU, not even its context, so that the GPU can rest."""


@dataclass(slots=True)
class GpuAmounts:
    """One GPU over a span."""

    ms: int = 0  # observed
    total: int = 0
    resident: int = 0  # of the kernels that the snapshots show
    reclaimed: int = 0
    others: int = 0  # of anybody else, contexts of reclaimed kernels among them
    held_ms: int = 0  # some kernel was resident there
    idle_ms: int = 0  # and all of them were idle
    bare_ms: int = 0  # reclaimed, context and all, and nobody else was there
    busy: int = 0  # utilisation × milliseconds
    busy_ms: int = 0  # for which it was known
    millijoules: int = 0
    power_ms: int = 0  # for which power was known


@dataclass(slots=True)
class KernelAmounts:
    """What one kernel held on one GPU over a span."""

    ms: int = 0
    resident: int = 0
    idle: int = 0  # of that, while it was idle
    reclaimed: int = 0
    waited_ms: int = 0  # code of its user waited for its data (under one of its GPUs)


Amounts = TypeVar("Amounts", GpuAmounts, KernelAmounts)
KernelOnGpu = tuple[str, str, str, str]
"""Kernel id, label, owner, GPU."""


@dataclass(slots=True)
class Span:
    """Ten seconds, from `at` (seconds since 1970)."""

    at: int
    gpus: dict[str, GpuAmounts] = field(default_factory=dict)
    kernels: dict[KernelOnGpu, KernelAmounts] = field(default_factory=dict)


class Meter:
    """Takes snapshots, gives spans. `gpus` has every GPU seen, as it was last seen."""

    def __init__(self, longest: timedelta) -> None:
        self._longest = longest
        self._last: Snapshot | None = None
        self._spans: dict[int, Span] = {}
        self.gpus: dict[str, Gpu] = {}

    def see(self, snapshot: Snapshot) -> None:
        """Take in the present; what came before it held until now."""
        last, self._last = self._last, snapshot
        for gpu in snapshot.gpus or ():
            self.gpus[gpu.uuid] = gpu
        if (
            last is None
            or last.gpus is None
            or not timedelta(0) < snapshot.taken_at - last.taken_at <= self._longest
        ):
            return
        gpus = {gpu.uuid: gpu_amounts(gpu, last.holdings) for gpu in last.gpus}
        kernels = {key: amounts for holding in last.holdings for key, amounts in kernel_amounts(holding)}
        for at, ms in _pieces(last.taken_at, snapshot.taken_at):
            span = self._spans.setdefault(at, Span(at))
            for uuid, rates in gpus.items():
                add(span.gpus.setdefault(uuid, GpuAmounts()), rates, ms)
            for key, held in kernels.items():
                add(span.kernels.setdefault(key, KernelAmounts()), held, ms)

    def ended(self) -> list[Span]:
        """The spans that are over, oldest first; they are handed out once."""
        if self._last is None:
            return []
        now = int(self._last.taken_at.timestamp())
        return [_summed(self._spans.pop(at)) for at in sorted(self._spans) if at + SPAN_SECONDS <= now]

    def current(self) -> list[Span]:
        """Those not handed out yet, the one under way among them."""
        return [_summed(self._spans[at]) for at in sorted(self._spans)]

    def rest(self) -> list[Span]:
        """All that is left, at the end."""
        spans, self._spans, self._last = self.current(), {}, None
        return spans


def gpu_amounts(gpu: Gpu, holdings: tuple[Holding, ...]) -> GpuAmounts:
    """What a millisecond adds: bytes, ones for states, thousandths of utilisation, milliwatts."""
    here = [holding for holding in holdings if holding.footprint.get(gpu.uuid)]
    resident = [holding for holding in here if on_gpu(holding)]
    reclaimed = [holding for holding in here if holding.phase is Phase.RECLAIMED]
    held = sum(holding.footprint[gpu.uuid] for holding in resident)
    others = max(0, gpu.used_bytes - held)
    freed = any(holding.mechanism in FREES_CONTEXT for holding in reclaimed)
    return GpuAmounts(
        ms=1,
        total=gpu.total_bytes,
        resident=held,
        reclaimed=sum(holding.footprint[gpu.uuid] for holding in reclaimed),
        others=others,
        held_ms=int(bool(resident)),
        idle_ms=int(bool(resident) and all(is_idle(holding) for holding in resident)),
        bare_ms=int(freed and not resident and not others),
        busy=round(1000 * (gpu.utilization or 0)),
        busy_ms=int(gpu.utilization is not None),
        millijoules=round(1000 * (gpu.power_watts or 0)),
        power_ms=int(gpu.power_watts is not None),
    )


def kernel_amounts(holding: Holding) -> Iterator[tuple[KernelOnGpu, KernelAmounts]]:
    """What a millisecond adds, for each of the kernel's GPUs."""
    waits = holding.waiting > 0 and holding.phase in (Phase.RECLAIMED, Phase.RESTORING)
    for uuid in sorted(uuid for uuid, held in holding.footprint.items() if held):
        held = holding.footprint[uuid]
        resident = held if on_gpu(holding) else 0
        yield (
            (holding.kernel_id, holding.label, holding.owner, uuid),
            KernelAmounts(
                ms=1,
                resident=resident,
                idle=resident if is_idle(holding) else 0,
                reclaimed=held if holding.phase is Phase.RECLAIMED else 0,
                waited_ms=int(waits),
            ),
        )
        waits = False


def on_gpu(holding: Holding) -> bool:
    """Whether its bytes take room there: on their way counts as there."""
    return holding.phase in (Phase.RESIDENT, Phase.RECLAIMING, Phase.RESTORING)


def is_idle(holding: Holding) -> bool:
    """Whether it is known that no code of its user is at work, in the background or on the GPU."""
    at_work = holding.running_since is not None or holding.waiting > 0 or holding.gpu_busy is True
    return not at_work and holding.last_active_at is not None and holding.background_work == ()


def add(amounts: GpuAmounts | KernelAmounts, more: GpuAmounts | KernelAmounts, times: int = 1) -> None:
    """Add amounts to amounts, so many times over."""
    for name in amounts.__slots__:
        setattr(amounts, name, getattr(amounts, name) + getattr(more, name) * times)


# What rates × milliseconds give, for one unit: bytes × ms, thousandths × ms, milliwatts × ms.
_UNITS = {
    **dict.fromkeys(("total", "resident", "reclaimed", "others", "idle"), 1_024_000),
    "busy": 1000,
    "millijoules": 1000,
}


def _summed(span: Span) -> Span:
    """The span with its amounts in their units; rounded once, so that the sum of a whole span is exact."""
    gpus = {uuid: _in_units(amounts) for uuid, amounts in span.gpus.items()}
    return Span(span.at, gpus, {key: _in_units(amounts) for key, amounts in span.kernels.items()})


def _in_units(raw: Amounts) -> Amounts:
    return type(raw)(**{name: round(getattr(raw, name) / _UNITS.get(name, 1)) for name in raw.__slots__})


def _pieces(since: datetime, until: datetime) -> Iterator[tuple[int, int]]:
    """The spans between two instants: (beginning, milliseconds of it)."""
    at, end = round(since.timestamp() * 1000), round(until.timestamp() * 1000)
    while at < end:
        span = at // 1000 // SPAN_SECONDS * SPAN_SECONDS
        upto = min(end, (span + SPAN_SECONDS) * 1000)
        yield span, upto - at
        at = upto
