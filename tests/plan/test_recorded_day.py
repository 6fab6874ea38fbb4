"""A day of 24 real kernels, recorded: the replay predicts it, and `decide()` decides again what it decided then."""

from __future__ import annotations

from pathlib import Path

import recorded_rounds
from test_load import POLICY

from jupyter_gpu_reclaim.core.admission import track_overtaken
from jupyter_gpu_reclaim.core.model import Keep
from jupyter_gpu_reclaim.core.policy import decide

HERE = Path(__file__).parent


def test_recorded_rounds_yield_the_recorded_decisions() -> None:
    """From what each round saw and what earlier ones left, each decision comes out again, its reason and place too."""
    overtaken, acts, rounds = {}, 0, 0
    for each in recorded_rounds.read(HERE / "recorded_rounds.json.xz"):
        decided = decide(each.snapshot, POLICY, each.short_since, overtaken, each.residence)
        assert {decision.kernel_id: decision for decision in decided} == each.decisions
        overtaken = track_overtaken(decided, overtaken)
        acts += sum(not isinstance(decision, Keep) for decision in decided)
        rounds += 1
    assert rounds > 100
    assert acts > 100
