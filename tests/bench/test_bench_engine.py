"""The whole engine group with tiny sizes, on the simulated GPU: that every row measures, not what it measures."""

from __future__ import annotations

import math

import pytest

from jupyter_gpu_reclaim.bench import Refused, engine

TINY = {"layers": 4, "width": 256}
ROWS: tuple[engine.Row, ...] = (
    ("copies", {"count": 50, "nbytes": 40_000, "rounds": 2, "out_at_least": 0.5, "back_at_least": 0.5}),
    ("verify", {"count": 50, "nbytes": 40_000, "rounds": 2}),
    ("whole", {**TINY, "rounds": 2, "verify": True}),
    ("by_hand", {**TINY, "rounds": 2}),
    ("file", {**TINY, "rounds": 2}),
    ("small", {"count": 200, "nbytes": 4000, "rounds": 2}),
    ("reclaim", {"count": 50, "nbytes": 4000, "rounds": 2, "at_most": 60}),
    ("scan", {"gc_objects": 300_000, "rounds": 2}),
    ("host_memory", {**TINY, "rounds": 2}),
    ("mid_training", {"rounds": 1}),
)


def test_every_row_gives_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row verifies its data and gives finite figures with their spread; those that count gradients are right."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tiny tensors, few cores
    figures = list(engine.measured(ROWS, engine.SIMULATED))
    for figure in figures:
        assert figure.group == "engine"
        assert figure.value is not None
        assert math.isfinite(figure.value)
        assert figure.low <= figure.value <= figure.high
    assert len(figures) == 18
    ours, *by_hand = figures[-3:]
    assert (ours.value, ours.holds) == (12, True)
    assert [figure.value for figure in by_hand] == [0, 0]


def test_a_row_that_cannot_be_measured_gives_nothing() -> None:
    """A row whose process fails is refused with its name, and no figure of it comes out."""
    with pytest.raises(Refused, match="copies"):
        list(engine.figures(rows=[("copies", {"count": -1})]))
