"""What we cost, measured beside what we promise: `jupyter gpu-reclaim bench`.

A group is a function that yields `Figure`s; later parts of the product add theirs to `GROUPS`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure: the middle of its samples, the lowest and the highest, and what it has to reach."""

    group: str
    name: str
    value: float | None  # None: not measured, and `note` says why
    unit: str
    low: float | None
    high: float | None
    target: float | None = None
    holds: bool | None = None
    at_least: bool = False  # whether `target` is the least it may be; else it is the most
    note: str = ""

    @classmethod
    def of(
        cls,
        group: str,
        name: str,
        unit: str,
        samples: Sequence[float],
        target: float | None = None,
        at_least: float | None = None,
        middle: Callable[[Sequence[float]], float] = median,
    ) -> Figure:
        """The figure of several samples; it holds if their `middle` is at most `target`, or at least `at_least`."""
        value = middle(samples)
        holds = None
        if target is not None:
            holds = value <= target
        elif at_least is not None:
            holds = value >= at_least
        return cls(
            group=group, name=name, value=value, unit=unit, low=min(samples), high=max(samples),
            target=target if at_least is None else at_least, holds=holds, at_least=at_least is not None,
        )  # fmt: skip

    @classmethod
    def unmeasured(cls, group: str, name: str, unit: str, why: str, at_most: float) -> Figure:
        """A figure that could not be measured here: it neither holds nor falls short."""
        return cls(
            group=group, name=name, value=None, unit=unit, low=None, high=None, target=at_most, note=why
        )


class Refused(Exception):
    """A figure that must not be printed, since what it is about did not come out right. The message says what."""


Group = Callable[[], Iterator[Figure]]


def groups(device: str) -> dict[str, Group]:
    """Every group by name, imported only when asked for; `device` is the torch device that the engine moves."""
    from jupyter_gpu_reclaim.bench import admission, engine, gate, hub, idle, log, plan, policy

    return {
        "gate": gate.figures,
        "policy": policy.figures,
        "idle": idle.figures,
        "admission": admission.figures,
        "engine": partial(engine.figures, device),
        "log": log.figures,
        "hub": hub.figures,
        "plan": plan.figures,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def run(
    show: Callable[[str], None],
    only: Sequence[str] | None,
    json_path: Path | None = None,
    markdown_path: Path | None = None,
    device: str = "simgpu",
) -> int:
    """Measures the groups named in `only` (None: all), shows a line a figure, and writes the files asked for.

    0: all were measured; 1: a figure was refused, and what it was about must not be believed; 2: no such group.
    """
    known = groups(device)
    unknown = sorted(set(only or ()) - set(known))
    if unknown:
        show(f"no such group: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    figures: list[Figure] = []
    try:
        for name, measure in known.items():
            if only is not None and name not in only:
                continue
            for figure in measure():
                figures.append(figure)
                show(line(figure))
    except Refused as refusal:
        show(f"REFUSED: {refusal}")
        return 1
    if json_path is not None:
        content = {"figures": [asdict(figure) for figure in figures], "machine": machine()}
        json_path.write_text(json.dumps(content, indent=2) + "\n")
    if markdown_path is not None:
        markdown_path.write_text(table(figures))
    return 0


def line(figure: Figure) -> str:
    """One figure for people: median, spread, target and whether it holds."""
    if figure.value is None:
        return f"{figure.group:8} {figure.name:64} not measured: {figure.note}"
    verdict = (
        ""
        if figure.holds is None
        else f"   {'≥' if figure.at_least else '≤'} {figure.target:g}: {'holds' if figure.holds else 'FALLS SHORT'}"
    )
    spread = f"({figure.low:.3g} – {figure.high:.3g})"
    return f"{figure.group:8} {figure.name:64} {figure.value:9.3g} {figure.unit:9} {spread:20}{verdict}"


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table, as the documentation has it."""
    rows = ["| group | figure | median | low – high | target |", "| --- | --- | --- | --- | --- |"]
    for figure in figures:
        if figure.value is None:
            measured, spread, verdict = "not measured", "–", figure.note
        else:
            measured = f"{_digits(figure.value)} {figure.unit}".rstrip()
            spread = f"{_digits(figure.low)} – {_digits(figure.high)}"
            side = "≥" if figure.at_least else "≤"
            short = "" if figure.holds else ": **falls short**"
            verdict = "–" if figure.target is None else f"{side} {figure.target:g}{short}"
        rows.append(f"| {figure.group} | {figure.name} | {measured} | {spread} | {verdict} |")
    return "\n".join(rows) + "\n"


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{float(f'{value:.3g}'):,g}"
