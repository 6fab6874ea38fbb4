"""How fast bytes move and how much of the GPUs' time that takes, from rows of the log alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from worlds import GIB, MINUTE, NOW

from jupyter_gpu_reclaim.core.model import Event, Phase, Policy, Transition
from jupyter_gpu_reclaim.core.pace import Pace, Traffic, measure, track_residence

SECOND = timedelta(seconds=1)
POLICY = Policy()


def move(event: Event, ago: float, took: float, gib: int = 4, gpu: str = "g0") -> Transition:
    """A move that was over so many seconds ago."""
    return Transition(
        id=f"{event}{ago}{gpu}",
        at=NOW - ago * SECOND,
        kernel_id="k",
        event=event,
        phase=Phase.RESIDENT,
        footprint={gpu: gib * GIB},
        moved_bytes=gib * GIB,
        took=took * SECOND,
    )


def test_speeds_are_the_median_of_what_was_measured():
    """Each direction by itself, however long ago; what was not measured is unknown."""
    rows = [move(Event.RECLAIM_DONE, 9000, took) for took in (1, 2, 40)]
    assert measure(rows, NOW) == Pace(offload=2 * GIB)
    restored = move(Event.RESTORE_DONE, 500, 4)
    assert measure([*rows, restored, replace(restored, id="x", took=None)], NOW).onload == GIB


def test_traffic_is_that_of_the_last_two_minutes():
    """Share of time, restores a minute and the length of a cycle, for each GPU that saw any."""
    rows = [
        move(Event.RECLAIM_DONE, 10, 4),
        move(Event.RESTORE_DONE, 20, 8),
        move(Event.RESTORE_DONE, 119, 12),
        move(Event.RESTORE_DONE, 121, 99),
        move(Event.RESTORE_DONE, 5, 6, gpu="g1"),
    ]
    assert measure(rows, NOW).traffic == {
        "g0": Traffic(restores_per_minute=1.0, moving_share=0.2, cycle=14 * SECOND),
        "g1": Traffic(restores_per_minute=0.5, moving_share=0.05, cycle=6 * SECOND),
    }


def test_residence_grows_with_the_moves_and_does_not_flutter():
    """It begins above the share allowed, is long enough to come down to it, and ends only below half of it."""

    def stay(share: float, cycle: float, before: dict) -> dict:
        traffic = {"g0": Traffic(moving_share=share, cycle=cycle * SECOND)}
        return track_residence(Pace(traffic=traffic), POLICY, before)

    assert stay(0.1, 2, {}) == {}
    assert stay(0.11, 2, {}) == {"g0": 30 * SECOND}
    assert stay(0.11, 8, {}) == {"g0": 72 * SECOND}
    assert stay(0.06, 2, {"g0": 72 * SECOND}) == {"g0": 72 * SECOND}
    assert stay(0.05, 2, {"g0": 72 * SECOND}) == {}
    assert stay(0.5, 60, {}) == {"g0": 5 * MINUTE}, "half of restore_timeout at most"
    assert track_residence(Pace(), replace(POLICY, max_moving_share=0), {"g0": MINUTE}) == {}
