"""Crash at every step: whatever call is the last one, the next reconciler finds its way and nothing is wrong."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from fakes import GIB, World
from rig import HOUR, check, reconciler, rounds

from jupyter_gpu_reclaim.core.episodes import OPEN, fold
from jupyter_gpu_reclaim.core.model import Phase
from jupyter_gpu_reclaim.reconciler import Reconciler


def a_day(world: World) -> None:
    """Two kernels that do not fit together, one idle for long; the scene that `play` goes through."""
    world.start("a", idle=HOUR, g0=10 * GIB)
    world.start("b", idle=timedelta(minutes=1), g0=6 * GIB)


async def play(one: Reconciler, world: World) -> None:
    """Reclaim a; run a cell in b; take the room; ask for a back, which makes room by reclaiming b; restore a."""
    await rounds(one, world)
    world.run_cell("b")
    world.end_cell("b")
    world.others["g0"] = min(6 * GIB, world.free("g0"))
    world.clock.advance(minutes=3)
    world.run_cell("a")
    await rounds(one, world, 3)


def calls_of_a_day() -> list[str]:
    """The port calls of a day on which nothing goes wrong, in order."""
    world = World()
    a_day(world)
    asyncio.run(play(reconciler(world), world))
    assert world.kernels["a"].running_since is not None
    check(world)
    return world.calls


CALLS = calls_of_a_day()
STEPS = [(number, when) for number in range(1, len(CALLS) + 1) for when in ("before", "after")]
NAMES = [f"{number}-{when}-{CALLS[number - 1]}" for number, when in STEPS]


def at_call(world: World, number: int, when: str, verdict):
    """A script that gives `verdict()` at one stage of the call of this number, and lets everything else pass."""

    def script(call: str, stage: str):
        return verdict() if (len(world.calls), stage) == (number, when) else None

    return script


async def recover(world: World, one: Reconciler) -> None:
    """Time enough for rests and second looks; afterwards everything must be at rest, agreed upon and in the log."""
    world.script = lambda call, when: None
    await rounds(one, world, 14)
    seen = {holding.kernel_id: holding for holding in one.status().snapshot.holdings}
    open_episodes = {episode.kernel_id for episode in fold(world.log.rows) if episode.outcome in OPEN}
    for name, kernel in world.kernels.items():
        assert kernel.phase in (Phase.RESIDENT, Phase.RECLAIMED)
        assert seen[name].phase is kernel.phase
        assert (name in open_episodes) == (kernel.phase is Phase.RECLAIMED)
    assert one.status().problems == ()
    check(world)


@pytest.mark.parametrize(("number", "when"), STEPS, ids=NAMES)
async def test_the_server_dies_at_this_step(number: int, when: str):
    """Power off at one call of a port, its effect there or not: a new server agrees with every kernel and the log."""
    world = World()
    a_day(world)
    dead = asyncio.Event()

    def die():
        dead.set()
        return asyncio.Event()

    world.script = at_call(world, number, when, die)
    before = set(asyncio.all_tasks())
    playing = asyncio.create_task(play(reconciler(world), world))
    died = asyncio.create_task(dead.wait())
    await asyncio.wait([playing, died], return_when=asyncio.FIRST_COMPLETED)
    assert dead.is_set()
    orphans = set(asyncio.all_tasks()) - before
    for task in orphans:
        task.cancel()
    await asyncio.gather(*orphans, return_exceptions=True)
    world.clock.advance(seconds=1)
    await recover(world, reconciler(world))
    assert world.kernels["a"].waiting == 0


@pytest.mark.parametrize(("number", "when"), STEPS, ids=NAMES)
async def test_a_port_raises_at_this_step(number: int, when: str):
    """One call raises, its effect there or not: the same reconciler goes on, and ends where it should."""
    world = World()
    a_day(world)
    one = reconciler(world)
    world.script = at_call(world, number, when, lambda: OSError("struck"))
    await play(one, world)
    await recover(world, one)
    assert world.kernels["a"].waiting == 0
