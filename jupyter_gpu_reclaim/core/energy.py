"""The figures of a report that are about energy, carbon and money: only what a mechanism really frees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jupyter_gpu_reclaim.core.figures import MS_HOUR, Figure, Point, gpu_hours_won_back

CONTEXT_SOURCE = (
    "arXiv 2605.23918 (2026): a CUDA context adds 26 to 66 W over a bare idle GPU; its lowest figure"
)
CONTEXT_WATTS: Mapping[str, float] = {"H100": 26.0, "A100": 26.0, "L40S": 66.0}
"""Watts that a process's context costs an otherwise idle GPU, by a part of the GPU's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What the samples cannot say. None: not said, and what needs it is left out."""

    price_per_gpu_hour: float | None = None
    currency: str = ""
    pue: float = 1.0
    grams_per_kwh: float | None = None
    grid_source: str = ""
    context_watts: float | None = None  # None: by the table above


def energy(points: Sequence[Point], names: Mapping[str, str], assumed: Assumptions) -> list[Figure]:
    """Energy of contexts that were gone while their GPU was nobody's, and the carbon of it. `names`: by GPU's UUID."""
    bare: dict[str, int] = {}
    for point in points:
        bare[point.gpu] = bare.get(point.gpu, 0) + point.amounts.bare_ms
    hours = sum(bare.values()) / MS_HOUR
    watts = {uuid: assumed.context_watts or _context_watts(names[uuid]) for uuid, ms in bare.items() if ms}
    unknown = sorted({names[uuid] or uuid for uuid, power in watts.items() if power is None})
    basis = f"{hours:g} GPU-hours in which contexts were freed (torch_offload frees none) and nobody else was there"
    kwh: float | None = sum(bare[uuid] / MS_HOUR * (power or 0) for uuid, power in watts.items()) / 1000
    if unknown:
        kwh, basis = (
            None,
            f"{basis}; what a context costs on {', '.join(unknown)} is not known: set context_watts",
        )
    elif watts:
        source = "as set" if assumed.context_watts else CONTEXT_SOURCE
        known = sorted({power for power in watts.values() if power is not None})
        basis += f" × {', '.join(f'{power:g} W' for power in known)} ({source})"
    with_pue = None if kwh is None else kwh * assumed.pue
    grams = None if with_pue is None or assumed.grams_per_kwh is None else with_pue * assumed.grams_per_kwh
    return [
        Figure("energy saved by GPUs", kwh, "kWh", basis),
        Figure("energy saved with the building's share", with_pue, "kWh", f"the same × PUE {assumed.pue:g}"),
        Figure(
            "carbon saved", grams, "g CO2",
            "no country and no grid intensity is set" if assumed.grams_per_kwh is None
            else f"that × {assumed.grams_per_kwh:g} g/kWh ({assumed.grid_source})",
        ),
    ]  # fmt: skip


def _context_watts(name: str) -> float | None:
    return next((watts for part, watts in CONTEXT_WATTS.items() if part in name), None)


def money(points: Sequence[Point], assumed: Assumptions) -> Figure:
    """What the capacity would have cost."""
    price = assumed.price_per_gpu_hour
    if price is None:
        return Figure(
            "worth of the GPU-hours won back", None, assumed.currency, "no price of a GPU-hour is set"
        )
    return Figure(
        "worth of the GPU-hours won back", gpu_hours_won_back(points) * price, assumed.currency,
        f"at {price:g} {assumed.currency} a GPU-hour, if others used them; not to be added to energy",
    )  # fmt: skip
