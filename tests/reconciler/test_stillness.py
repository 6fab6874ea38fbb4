"""When the loop looks less often."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from jupyter_gpu_reclaim.core.model import Decision, Gpu, Keep, Reason, Snapshot, Wait
from jupyter_gpu_reclaim.reconciler.stillness import LOOKS, TICKS_A_LOOK, Stillness

GPU = Gpu(uuid="g", name="a GPU", total_bytes=100, used_bytes=10)
SEEN = Snapshot(
    taken_at=datetime(2026, 1, 1, tzinfo=UTC), gpus=(GPU,), holdings=(), host_available_bytes=None
)
IDLE: dict[str, Decision] = {
    "a": Keep("a", Reason.RECENTLY_ACTIVE),
    "b": Keep("b", Reason.ALREADY_RECLAIMED),
}


def after(*looks: tuple[Snapshot, dict[str, Decision]]) -> int:
    """Ticks a look once a world that was still until then has been seen so."""
    stillness = Stillness()
    for snapshot, decisions in [(SEEN, IDLE)] * (LOOKS + 1) + list(looks):
        stillness.see(snapshot, decisions)
    return stillness.ticks_a_look


def test_a_still_world_is_looked_at_half_as_often() -> None:
    """Only once it has been the same for a while, and for as long as it stays so."""
    stillness, found = Stillness(), []
    for _ in range(LOOKS + 2):
        stillness.see(SEEN, IDLE)
        found.append(stillness.ticks_a_look)
    assert found == [1] * LOOKS + [TICKS_A_LOOK] * 2


@pytest.mark.parametrize(
    ("snapshot", "decisions"),
    [
        (replace(SEEN, gpus=(replace(GPU, used_bytes=11),)), IDLE),
        (replace(SEEN, outside_pressure={"g": 1}), IDLE),
        (SEEN, {**IDLE, "a": Keep("a", Reason.RUNNING)}),
        (SEEN, {**IDLE, "a": Keep("a", Reason.PINNED)}),
        (SEEN, {**IDLE, "b": Wait("b", Reason.NO_ROOM, missing={"g": 1})}),
        (SEEN, {"a": IDLE["a"]}),
    ],
    ids=["memory", "pressure", "running", "another reason", "waiting", "a kernel less"],
)
def test_any_change_ends_it(snapshot: Snapshot, decisions: dict[str, Decision]) -> None:
    """A change of memory or of a kernel, and whoever works or waits, has the next look come after one tick again."""
    assert after() == TICKS_A_LOOK
    assert after((snapshot, decisions)) == 1


@pytest.mark.parametrize("reason", [Reason.RUNNING, Reason.GPU_BUSY, Reason.IN_FLIGHT, Reason.TURN])
def test_work_is_never_still(reason: Reason) -> None:
    """However long a kernel works or moves, the loop looks as often as ever."""
    assert after(*[(SEEN, {"a": Keep("a", reason)})] * 20) == 1
