"""The group `admission` measures what it says, small."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jupyter_gpu_reclaim.bench.admission import crowd, latency
from jupyter_gpu_reclaim.sim.build import ensure_built


def test_every_hit_of_the_gate_gets_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time user code is said to wait, the loop orders the restore, over the real socket and log."""
    ensure_built(lambda line: None)
    for name, value in {"KERNELS": 4, "HITS": 4, "SECONDS_BETWEEN": 0.05}.items():
        monkeypatch.setattr(latency, name, value)
    samples = asyncio.run(latency.measure(tmp_path))
    assert len(samples) == 4
    assert min(samples) > 0


def test_each_tick_with_a_crowd_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample a tick, and the event loop is as it was afterwards."""
    monkeypatch.setattr(crowd, "TICKS", 2)
    plain = asyncio.Handle._run
    assert len(asyncio.run(crowd.holds())) == 2
    assert asyncio.Handle._run is plain
