"""A report as a table for a terminal, as JSON, and as one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from jupyter_gpu_reclaim.core.figures import Course, Figure
from jupyter_gpu_reclaim.core.savings import Report, Use
from jupyter_gpu_reclaim.core.wire import to_json

SIMULATED = "Some of these GPUs are simulated: no figure here is one of a real GPU."
PARTS = (("by user", "users"), ("by notebook", "notebooks"), ("by GPU", "gpus"))
HEADS = ("held", "used", "reclaimed", "waited")
UNITS = ("GiB-hours", "GiB-hours", "GiB-hours", "hours")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1b1b1f; background: #fff }
table { border-collapse: collapse; width: 100% } td, th { padding: .25rem .6rem; text-align: left;
  border-bottom: 1px solid #8884 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.u { white-space: nowrap }
.basis { color: #5a5a66; font-size: 13px } svg { width: 100%; height: auto }
.total { stroke: #8a8a94 } .footprint { fill: #c9b8f0 } .resident { fill: #3f7d63 }
@media (prefers-color-scheme: dark) { body { color: #e6e6ea; background: #17171b } .basis { color: #a2a2ad }
  .footprint { fill: #6b59a3 } .resident { fill: #6fb592 } }
"""
WIDTH, HEIGHT, LEFT, BELOW = 900, 260, 70, 24


def as_json(report: Report) -> str:
    """Everything in it."""
    return json.dumps(to_json(report), indent=2, ensure_ascii=False)


def as_table(report: Report) -> str:
    """Lines for people: each figure with what it rests on beneath it, then who held what."""
    lines = [title(report), *([SIMULATED] if report.simulated else []), ""]
    width = max(len(figure.name) for figure in report.figures)
    for figure in report.figures:
        lines += [
            f"{figure.name:{width}}  {number(figure):>12} {figure.unit}".rstrip(),
            f"    {figure.basis}",
        ]
    for heading, part in PARTS:
        lines += ["", f"{heading:40}" + "".join(f"{head:>12}" for head in HEADS)]
        lines.append(" " * 40 + "".join(f"{unit:>12}" for unit in UNITS))
        for use in getattr(report, part):
            lines.append(f"{_short(use.name):40}" + "".join(f"{value:12.2f}" for value in amounts(use)))
    return "\n".join(lines)


def as_html(report: Report) -> str:
    """One file, without scripts, fonts or pictures from elsewhere; light and dark as the reader's system."""
    figures = "".join(
        f'<tr><td>{escape(figure.name)}<div class="basis">{escape(figure.basis)}</div></td>'
        f'<td class="n">{number(figure)}</td><td class="u">{escape(figure.unit)}</td></tr>'
        for figure in report.figures
    )
    simulated = f"<p><strong>{SIMULATED}</strong></p>" if report.simulated else ""
    tables = "".join(_use_table(heading, getattr(report, part)) for heading, part in PARTS)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title(report))}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>GPU memory, reclaimed</h1><p>{escape(title(report))}</p>{simulated}"
        f"{chart(report.course, report.step_seconds)}"
        f"<h2>What it brought, and on what that rests</h2><table>{figures}</table>{tables}</body></html>\n"
    )


def chart(course: Sequence[Course], step_seconds: int) -> str:
    """Resident bytes under footprints, over time, as SVG; "" without samples. A time not observed is left blank."""
    if not course:
        return "<p>There are no samples of this time.</p>"
    begin, end = course[0].at, course[-1].at + step_seconds
    most = max(max(each.footprint_bytes, each.total_bytes) for each in course) or 1

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT) * (at - begin) / (end - begin)

    def y(size: float) -> float:
        return (HEIGHT - BELOW) * (1 - size / most)

    def bar(each: Course, size: int) -> str:
        return f"M{x(each.at):.1f} {HEIGHT - BELOW}V{y(size):.1f}H{x(each.at + step_seconds):.1f}V{HEIGHT - BELOW}z"

    footprints = "".join(bar(each, each.footprint_bytes) for each in course)
    resident = "".join(bar(each, each.resident_bytes) for each in course)
    total = course[-1].total_bytes
    labels = "".join(
        f'<text x="0" y="{y(size) + 12:.0f}" font-size="12" fill="currentColor">{size / (1 << 30):.1f} GiB</text>'
        for size in (most, most / 2)
    )
    for at, anchor, place in ((begin, "start", LEFT), (end, "end", WIDTH)):
        labels += (
            f'<text x="{place}" y="{HEIGHT - 6}" font-size="12" fill="currentColor" text-anchor="{anchor}">'
            f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}</text>"
        )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="GPU memory over time">'
        f'<path class="footprint" d="{footprints}"/><path class="resident" d="{resident}"/>'
        f'<path class="total" fill="none" stroke-dasharray="4" d="M{LEFT} {y(total):.1f}H{WIDTH}"/>{labels}</svg>'
        '<figcaption class="basis">Below: notebooks\' bytes on the GPUs. Above them: what they had given back. '
        "Dashed: what the GPUs have.</figcaption></figure>"
    )


def title(report: Report) -> str:
    """From when to when."""
    return f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"


def number(figure: Figure) -> str:
    """The value with as many digits as mean something; a dash for what is not known."""
    if figure.value is None:
        return "–"
    return f"{figure.value:,.0f}" if abs(figure.value) >= 1000 else f"{figure.value:.4g}"


def amounts(use: Use) -> tuple[float, float, float, float]:
    """What the tables show of it."""
    return use.held_gib_hours, use.used_gib_hours, use.reclaimed_gib_hours, use.waited_hours


def _use_table(heading: str, uses: Sequence[Use]) -> str:
    heads = "".join(f'<th class="n">{head}, {unit}</th>' for head, unit in zip(HEADS, UNITS, strict=True))
    rows = ""
    for use in uses:
        cells = "".join(f'<td class="n">{value:,.2f}</td>' for value in amounts(use))
        rows += f"<tr><td>{escape(use.name)}</td>{cells}</tr>"
    return f"<h2>{heading[0].upper()}{heading[1:]}</h2><table><tr><th></th>{heads}</tr>{rows}</table>"


def _short(name: str) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    return plain if len(plain) <= 39 else f"…{plain[-38:]}"
