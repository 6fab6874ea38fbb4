"""What we cost, measured beside what we promise: `jupyter gpu-reclaim bench`.

A group is a function that yields `Figure`s; later parts of the product add theirs to `GROUPS`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure: the median of its samples with the lowest and highest, and the most it may be."""

    group: str
    name: str
    value: float
    unit: str
    low: float
    high: float
    target: float | None = None
    holds: bool | None = None

    @classmethod
    def of(
        cls, group: str, name: str, unit: str, samples: Sequence[float], target: float | None = None
    ) -> Figure:
        """The figure of several samples; it holds if their median is at most `target`."""
        middle = median(samples)
        return cls(
            group=group, name=name, value=middle, unit=unit, low=min(samples), high=max(samples), target=target,
            holds=None if target is None else middle <= target,
        )  # fmt: skip


Group = Callable[[], Iterator[Figure]]


def groups() -> dict[str, Group]:
    """Every group by name, imported only when asked for."""
    from jupyter_gpu_reclaim.bench import gate, idle, policy

    return {"gate": gate.figures, "policy": policy.figures, "idle": idle.figures}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def run(show: Callable[[str], None], only: Sequence[str] | None, json_path: Path | None) -> int:
    """Measures the groups named in `only` (None: all) and shows a line a figure; 2 for a group that does not exist."""
    known = groups()
    unknown = sorted(set(only or ()) - set(known))
    if unknown:
        show(f"no such group: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    figures: list[Figure] = []
    for name, measure in known.items():
        if only is not None and name not in only:
            continue
        for figure in measure():
            figures.append(figure)
            show(line(figure))
    if json_path is not None:
        content = {"figures": [asdict(figure) for figure in figures], "machine": machine()}
        json_path.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def line(figure: Figure) -> str:
    """One figure for people: median, spread, target and whether it holds."""
    verdict = (
        ""
        if figure.holds is None
        else f"   target {figure.target:g}: {'holds' if figure.holds else 'FALLS SHORT'}"
    )
    spread = f"({figure.low:.3g} – {figure.high:.3g})"
    return f"{figure.group:8} {figure.name:64} {figure.value:9.3g} {figure.unit:9} {spread:20}{verdict}"
