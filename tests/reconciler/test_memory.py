"""What the reconciler remembers of a kernel, laid over what was observed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from jupyter_gpu_reclaim.core.model import Holding, Phase
from jupyter_gpu_reclaim.reconciler.memory import KernelMemory

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_what_was_laid_over_is_made_anew_exactly_when_something_of_it_is_new() -> None:
    """The same object while nothing changes; a pin, its end, and whatever is seen anew make another at once."""
    seen = Holding(kernel_id="k", label="k.ipynb", managed=True, footprint={"g": 8})
    memory = KernelMemory(holding=seen, phase=Phase.RECLAIMED, phase_since=NOW, needed={"g": 16})

    def laid() -> Holding:
        return memory.overlaid({"g": 99}, NOW)

    first = laid()
    assert (first.phase, first.footprint, first.pinned_until) == (Phase.RECLAIMED, {"g": 16}, None)
    assert laid() is first
    memory.pinned_until = NOW + timedelta(hours=1)
    assert laid() == replace(first, pinned_until=memory.pinned_until)
    memory.pinned_until = None
    assert laid() == first
    memory.needed["g"] = 17  # in place
    assert laid().footprint == {"g": 17}
    memory.observe(replace(seen, waiting=1), NOW)
    assert (laid().waiting, laid().restore_wanted_at) == (1, NOW)
