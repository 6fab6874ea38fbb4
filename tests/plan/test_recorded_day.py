"""A day of 24 real kernels, recorded: the replay predicts it, and `decide()` decides again what it decided then."""

from __future__ import annotations

from pathlib import Path

import recorded_rounds
from load_replay import Day, compared, predicted
from test_load import POLICY, SAMPLE_SECONDS, TICK_SECONDS

from jupyter_gpu_reclaim.core.admission import track_overtaken
from jupyter_gpu_reclaim.core.model import Event, Keep
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


def test_the_replay_of_a_recorded_day_agrees_with_what_was_measured() -> None:
    """Waits' mean and median, bytes × time and restores within 10 %, the longest waits within 15 %, on both sides.

    The longest waits hang on one instant: from when on, since much is moved, whoever comes back stays for longer. With
    one move of 0.25 s less in the past it comes after three more restores instead of before.
    """
    day = Day.read(HERE / "recorded_day.json")
    sooner, later = (errors(day, forgotten) for forgotten in (0, 1))
    tails = {"95 % of waits, s", "longest wait, s"}
    for found in (sooner, later):
        assert {name for name, error in found.items() if abs(error) > 0.15} == set()
        assert {name for name, error in found.items() if abs(error) > 0.10} <= tails
    assert all(later[name] < 0 < sooner[name] for name in tails)


def errors(day: Day, forgotten: int) -> dict[str, float]:
    """Of each figure, how far what was predicted lies above what was measured, as a share of it."""
    figures = compared(day, POLICY, TICK_SECONDS, SAMPLE_SECONDS, forgotten)
    return {name: expected / measured - 1 for name, (expected, measured) in figures.items()}


def test_the_replay_serves_the_same_people_in_the_same_order() -> None:
    """Over a third of the day, until two cells come within a tick of each other, restores are of the same kernels."""
    day, rows = Day.read(HERE / "recorded_day.json"), []
    predicted(day, POLICY, TICK_SECONDS, SAMPLE_SECONDS, rows=rows)
    expected = [row.kernel_id for row in rows if row.event is Event.RESTORE_STARTED]
    recorded = [f"k{move.kernel:02d}" for move in sorted(day.within("restore"), key=lambda move: move.began)]
    assert expected[:20] == recorded[:20]
