"""A plan as lines for a terminal, as JSON, and as one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from math import inf, isfinite, log10

from jupyter_gpu_reclaim.plan.study import Answer, Curve, Variation, spread_text

CAVEATS = (
    "Cells are taken to run as fast beside others as alone: with several at once on a GPU they do not, at worst by "
    "as much as “cells at once on a GPU at work” says.",
    "A kernel stays on the GPU that it was given when it began; but for one limit, baselines may use any for any cell.",
    "A GPU's speed of moving is an assumption until it is measured on yours: jupyter gpu-reclaim doctor.",
)
COLOURS = ("#3f7d63", "#8a8a94", "#c4562f", "#b8912c", "#6b59a3", "#1f8a9e", "#2f6fb0")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1b1b1f; background: #fff }
table { border-collapse: collapse; width: 100% } td, th { padding: .25rem .6rem; text-align: left;
  border-bottom: 1px solid #8884 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.basis { color: #5a5a66; font-size: 13px } svg { width: 100%; height: auto }
@media (prefers-color-scheme: dark) { body { color: #e6e6ea; background: #17171b } .basis { color: #a2a2ad } }
"""
WIDTH, HEIGHT, LEFT, RIGHT, BELOW = 900, 340, 70, 20, 30
SHORTEST, LONGEST = 0.1, 1e5
"""Of the chart's logarithmic axis, in seconds: a wait for ever is drawn at its top."""
MARKS = ((0.1, "≤ 0.1 s"), (1, "1 s"), (10, "10 s"), (100, "100 s"), (1e3, "1,000 s"), (inf, "for ever"))


def lines(answer: Answer) -> Iterator[str]:
    """One answer for people."""
    target = answer.ask.target
    yield f"{answer.name}: GPUs needed so that {target.quantile:.0%} of cells wait less than {target.seconds:g} s"
    yield f"  {'this extension':52}{spread_text(answer.needed()):>16}"
    for name, needed in answer.baselines():
        yield f"  {name:52}{spread_text(needed):>16}"
    yield f"  on {', '.join('–' if n is None else str(n) for n in answer.gpus)} GPUs:"
    for name, unit, spread in answer.figures():
        yield f"  {name:52}{spread_text(spread):>16} {unit}".rstrip()
    for cause, hours in sorted(answer.causes().items()):
        yield f"  {f'hours waited: {cause}':52}{hours:16.2f}"
    yield ""


def as_json(
    answers: Sequence[Answer], variations: Sequence[Variation], drawn: Sequence[Curve], basis: dict[str, str]
) -> str:
    """Everything; each figure as mean and half width of its 95 % interval. For ever is null."""
    content = {
        "basis": basis,
        "caveats": CAVEATS,
        "answers": [
            {
                "name": answer.name,
                "gpus": answer.gpus,
                "gpus_needed": answer.needed(),
                "baselines": dict(answer.baselines()),
                "figures": {name: {"unit": unit, "value": spread} for name, unit, spread in answer.figures()},
                "hours_waited": answer.causes(),
            }
            for answer in answers
        ],
        "sensitivity": [asdict(each) for each in variations],
        "curves": {
            curve.name: [(gpus, wait if isfinite(wait) else None) for gpus, wait in curve.points]
            for curve in drawn
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_html(
    answers: Sequence[Answer], variations: Sequence[Variation], drawn: Sequence[Curve], basis: dict[str, str]
) -> str:
    """One file, without scripts, fonts or pictures from elsewhere; light and dark as the reader's system."""
    target = answers[0].ask.target
    parts = [chart(drawn, target.quantile, target.seconds)]
    for answer in answers:
        needed = [("this extension", answer.needed()), *answer.baselines()]
        rows = "".join(_row(name, spread_text(spread), "GPUs needed") for name, spread in needed)
        rows += "".join(_row(name, spread_text(spread), unit) for name, unit, spread in answer.figures())
        rows += "".join(
            _row(f"waited: {cause}", f"{hours:.2f}", "hours")
            for cause, hours in sorted(answer.causes().items())
        )
        parts.append(f"<h2>{escape(answer.name)}</h2><table>{rows}</table>")
    if variations:
        rows = "".join(
            f'<tr><td>{escape(v.name)} = {v.value:g}</td><td class="n">{spread_text(v.product)}</td>'
            f'<td class="n">{spread_text(v.limit)}</td></tr>'
            for v in variations
        )
        parts.append(
            '<h2>With one assumption changed</h2><table><tr><th></th><th class="n">GPUs needed</th>'
            f'<th class="n">limit</th></tr>{rows}</table>'
        )
    notes = "".join(f"<li>{escape(text)}</li>" for text in CAVEATS)
    rested_on = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in basis.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>How many GPUs</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>How many GPUs</h1>{''.join(parts)}<h2>What this rests on</h2><ul>{notes}</ul>"
        f"<table>{rested_on}</table></body></html>\n"
    )


def chart(drawn: Sequence[Curve], quantile: float, wanted: float) -> str:
    """Waits by number of GPUs as SVG, a line a rule; the dashed line is the wait that is short enough."""
    numbers = [gpus for curve in drawn for gpus, _ in curve.points]
    if not numbers:
        return ""
    low, high = min(numbers), max(max(numbers), min(numbers) + 1)

    def x(gpus: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (gpus - low) / (high - low)

    def y(seconds: float) -> float:
        inside = min(max(seconds, SHORTEST), LONGEST)
        return (HEIGHT - BELOW) * (1 - log10(inside / SHORTEST) / log10(LONGEST / SHORTEST)) + 2

    marks = "".join(
        f'<text x="0" y="{max(12, y(seconds) + 4):.0f}" font-size="12" fill="currentColor">{text}</text>'
        for seconds, text in MARKS
    )
    marks += "".join(
        f'<text x="{x(gpus):.0f}" y="{HEIGHT - 8}" font-size="12" fill="currentColor" '
        f'text-anchor="middle">{gpus}</text>'
        for gpus in sorted(set(numbers))
    )
    paths, names = "", ""
    for curve, colour in zip(drawn, COLOURS * (1 + len(drawn) // len(COLOURS)), strict=False):
        path = "M" + "L".join(f"{x(gpus):.1f} {y(wait):.1f}" for gpus, wait in sorted(curve.points))
        wide = 3 if curve is drawn[0] else 1.5
        name = escape(curve.name)
        paths += f'<path fill="none" stroke="{colour}" stroke-width="{wide}" d="{path}"><title>{name}</title></path>'
        names += f'<span style="color:{colour}">■</span> {name} &nbsp; '
    dashed = f'<path stroke="currentColor" stroke-dasharray="4" d="M{LEFT} {y(wanted):.1f}H{WIDTH - RIGHT}"/>'
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Waits by number of GPUs">{dashed}'
        f'{paths}{marks}</svg><figcaption class="basis">The wait that {quantile:.0%} of cells do not exceed, by '
        f"number of GPUs, on the first trace. {names}</figcaption></figure>"
    )


def _row(name: str, value: str, unit: str) -> str:
    return f'<tr><td>{escape(name)}</td><td class="n">{value}</td><td>{escape(unit)}</td></tr>'
