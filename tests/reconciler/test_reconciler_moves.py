"""The loop on a world in memory: what it moves, what it leaves alone, and what it writes."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from datetime import timedelta

from fakes import GIB, World
from rig import HOUR, check, reconciler, rounds

from jupyter_gpu_reclaim.core.episodes import EpisodeOutcome, fold
from jupyter_gpu_reclaim.core.model import Event, Failed, Keep, Phase, Reason, Wait

RECLAIM = [Event.RECLAIM_STARTED, Event.RECLAIM_DONE]
RESTORE = [Event.RESTORE_STARTED, Event.RESTORE_DONE]


def fragments(world: World, size: int) -> None:
    """Room that shows as free and cannot be had by a restore."""
    before = dict(world.others)
    world.script = lambda call, when: world.others.__setitem__(
        "g0", before["g0"] + (size if call == "resume" and when == "before" else 0)
    )


async def test_an_idle_kernel_goes_and_comes_back_with_its_next_cell():
    """Reclaimed for being idle, restored for the cell; the log has the whole episode with its figures."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=10 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    assert (kernel.phase, world.free("g0")) == (Phase.RECLAIMED, 16 * GIB)
    world.clock.advance(minutes=30)
    world.run_cell("a")
    await rounds(one, world)
    assert kernel.phase is Phase.RESIDENT
    assert kernel.running_since is not None
    assert world.log.events("a") == RECLAIM + RESTORE
    (episode,) = fold(world.log.rows)
    assert (episode.outcome, episode.reason) == (EpisodeOutcome.RESTORED, Reason.IDLE)
    assert (episode.restore_reason, episode.moved_bytes) == (Reason.USER_CODE, 10 * GIB)
    assert episode.freed_bytes == {"g0": 10 * GIB}
    check(world)


async def test_the_intent_is_written_before_the_act():
    """When the agent is asked to suspend or to resume, the row that says so is in the log already."""
    world = World()
    world.start("a", idle=HOUR, g0=GIB)
    seen = []
    world.script = lambda call, when: (
        seen.append((call, world.log.events()[-1]))
        if when == "before" and call in ("suspend", "resume")
        else None
    )
    one = reconciler(world)
    await rounds(one, world)
    world.run_cell("a")
    await rounds(one, world)
    assert seen == [("suspend", Event.RECLAIM_STARTED), ("resume", Event.RESTORE_STARTED)]


async def test_a_cell_that_starts_between_decision_and_act_wins():
    """The agent refuses, the kernel stays, the log says why; it is tried again only after it was idle again."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    world.script = lambda call, when: world.run_cell("a") if (call, when) == ("suspend", "before") else None
    one = reconciler(world)
    await rounds(one, world, 3)
    assert kernel.phase is Phase.RESIDENT
    assert world.log.events() == [Event.RECLAIM_STARTED, Event.RECLAIM_REFUSED]
    assert world.log.rows[-1].reason is Reason.RUNNING
    assert one.status().decisions["a"] == Keep("a", Reason.RUNNING)
    world.script = lambda call, when: None
    world.end_cell("a")
    world.clock.advance(minutes=20)
    await rounds(one, world)
    assert kernel.phase is Phase.RECLAIMED
    check(world)


async def test_what_only_the_agent_sees_is_asked_again_after_longer_and_longer_rests():
    """Refused time and again, the reclaim is tried ever more seldom, and the log does not fill up."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    kernel.background_work = ()
    world.script = lambda call, when: setattr(
        kernel, "background_work", ("thread",) if (call, when) == ("suspend", "before") else ()
    )
    await rounds(one, world, 24, seconds=60)
    refusals = [row.at for row in world.log.rows if row.event is Event.RECLAIM_REFUSED]
    gaps = [after - before for before, after in itertools.pairwise(refusals)]
    assert 3 <= len(refusals) <= 6
    assert gaps == sorted(gaps)
    check(world)


async def test_room_is_made_for_a_waiting_cell_by_the_least_recently_used():
    """Oversubscribed, the waiting kernel comes back once the longest idle other has gone; all data is intact."""
    world = World()
    world.start("a", idle=HOUR, g0=12 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.start("b", idle=timedelta(minutes=5), g0=6 * GIB)
    world.start("c", idle=timedelta(minutes=9), g0=8 * GIB)
    world.run_cell("a")
    await one.tick()
    assert one.status().decisions["a"] == Wait("a", Reason.NO_ROOM, 1, {"g0": 10 * GIB})
    await one.quiet()
    await rounds(one, world)
    phases = {name: kernel.phase for name, kernel in world.kernels.items()}
    assert phases == {"a": Phase.RESIDENT, "b": Phase.RECLAIMED, "c": Phase.RECLAIMED}
    assert world.kernels["a"].running_since is not None
    check(world)


async def test_running_out_of_memory_is_retried_with_more_room():
    """What fits by the figures and fails all the same is tried again after others were moved for it."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=8 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    other = world.start("b", idle=timedelta(minutes=5), g0=5 * GIB)
    world.others["g0"] = 3 * GIB
    fragments(world, GIB)
    world.run_cell("a")
    await rounds(one, world, seconds=0.5)
    assert world.log.events("a") == [*RECLAIM, Event.RESTORE_STARTED, Event.RESTORE_FAILED]
    await rounds(one, world, seconds=0.5)
    assert one.status().decisions["a"].reason is Reason.RETRY_LATER
    assert one.status().snapshot.holdings[0].footprint["g0"] == int(8 * GIB * 1.1)
    assert other.phase is Phase.RECLAIMED
    await rounds(one, world)
    assert kernel.phase is Phase.RESIDENT
    (episode, _) = fold(world.log.rows)
    assert (episode.outcome, episode.restore_failures) == (EpisodeOutcome.RESTORED, 1)
    check(world)


async def test_failed_restores_rest_for_longer_each_time_up_to_retry_after():
    """1, 2, 4, 8 … seconds, and never longer than the policy says."""
    world = World()
    world.start("a", idle=HOUR, g0=2 * GIB)
    one = reconciler(world, retry_after=timedelta(seconds=6))
    await rounds(one, world)
    fragments(world, 15 * GIB)
    world.run_cell("a")
    await rounds(one, world, 60, seconds=0.5)
    failed = [row.at for row in world.log.rows if row.event is Event.RESTORE_FAILED]
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(failed)]
    assert gaps == [1, 2, 4, 6, 6, 6]
    check(world)


async def test_more_room_than_there_can_be_is_not_insisted_on():
    """Where the grown need can never be free, the plain need is tried again, so nobody waits for the impossible."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=14 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.others["g0"] = GIB
    fragments(world, 2 * GIB)
    world.run_cell("a")
    await rounds(one, world, 2)
    assert one.status().decisions["a"].reason is Reason.NO_ROOM
    world.script = lambda call, when: None
    await rounds(one, world, 8)
    assert kernel.phase is Phase.RESIDENT
    check(world)


async def test_needs_never_grow_beyond_the_gpu():
    """However often it fails, no more room is asked for than the GPU has in all."""
    world = World()
    world.start("a", idle=HOUR, g0=15 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.run_cell("a")
    fragments(world, 4 * GIB)
    await rounds(one, world, 5, seconds=3)
    assert one.status().snapshot.holdings[0].footprint == {"g0": 16 * GIB}
    check(world)


async def test_a_cell_that_waits_too_long_ends_with_one_clear_error():
    """After restore_timeout its wait ends, the bytes stay in host memory, and the next cell asks anew."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=8 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.others["g0"] = 16 * GIB
    world.run_cell("a")
    await rounds(one, world, 11, seconds=60)
    assert (kernel.phase, kernel.waiting) == (Phase.RECLAIMED, 0)
    (message,) = kernel.errors
    assert "8.0 GiB" in message
    assert "10 min" in message
    assert "Nothing is lost" in message
    assert world.log.events() == [*RECLAIM, Event.WAIT_ENDED]
    world.others["g0"] = 0
    world.run_cell("a")
    await rounds(one, world)
    assert kernel.phase is Phase.RESIDENT
    check(world)


async def test_without_a_restore_timeout_a_cell_waits_on():
    """0 means no limit: hours later the cell still waits, and gets its bytes when there is room."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=8 * GIB)
    one = reconciler(world, restore_timeout=timedelta(0))
    await rounds(one, world)
    world.others["g0"] = 16 * GIB
    world.run_cell("a")
    await rounds(one, world, 3, seconds=3600)
    assert (kernel.waiting, kernel.errors) == (1, [])
    world.others["g0"] = 0
    await rounds(one, world)
    assert kernel.phase is Phase.RESIDENT


async def test_a_dry_run_moves_nothing_and_says_what_it_would_do_once_a_spell():
    """One proposal for each idle spell of each kernel, however many ticks pass; restores still happen."""
    world = World()
    world.start("a", idle=HOUR, g0=2 * GIB)
    world.start("b", idle=HOUR, g0=2 * GIB)
    world.start("c", idle=HOUR, g0=2 * GIB)
    one = reconciler(world, mode="dry_run")
    await rounds(one, world, 3)
    assert world.log.events() == [Event.RECLAIM_PROPOSED] * 3
    assert {row.reason for row in world.log.rows} == {Reason.IDLE}
    assert "suspend" not in world.calls
    world.run_cell("a")
    world.end_cell("a")
    await rounds(one, world, 2, seconds=1200)
    assert world.log.events("a") == [Event.RECLAIM_PROPOSED] * 2
    assert "would have been moved" in one.status().explanations["a"]
    check(world)


async def test_switched_to_dry_run_the_reclaimed_still_come_back():
    """The mode holds for reclaims only: a cell gets its bytes in any mode."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=2 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    for mode in ("dry_run", "off"):
        kernel.phase = Phase.RECLAIMED
        one.policy = replace(one.policy, mode=mode)
        world.run_cell("a")
        await rounds(one, world, 2)
        assert kernel.running_since is not None, mode
        world.end_cell("a")


async def test_a_restored_kernel_rests_and_counts_as_just_used():
    """Brought back on a wish though idle for an hour, it is not sent away again until it was idle anew."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=2 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    wish = asyncio.ensure_future(one.wish_restore("a", "ada"))
    await asyncio.sleep(0)
    await rounds(one, world)
    await wish
    assert kernel.phase is Phase.RESIDENT
    await rounds(one, world, 19, seconds=60)
    assert kernel.phase is Phase.RESIDENT
    await rounds(one, world, 2, seconds=60)
    assert kernel.phase is Phase.RECLAIMED
    check(world)


async def test_one_slow_move_holds_up_nobody():
    """While one kernel's reclaim hangs, another is restored, and the loop goes on ticking."""
    world = World()
    world.start("slow", idle=2 * HOUR, g0=2 * GIB)
    other = world.start("other", idle=HOUR, g0=2 * GIB)
    one = reconciler(world, max_in_flight=1)
    hang = asyncio.Event()
    world.script = lambda call, when: hang if (call, when) == ("suspend", "before") else None
    other.phase = Phase.RECLAIMED
    world.run_cell("other")
    await one.tick()
    while other.phase is not Phase.RESIDENT:
        await asyncio.sleep(0)
    await one.tick()
    assert one.status().decisions["slow"] == Keep("slow", Reason.IN_FLIGHT)
    hang.set()
    await rounds(one, world)
    assert world.kernels["slow"].phase is Phase.RECLAIMED
    check(world)


async def test_a_kernel_lost_by_the_driver_is_said_to_be_lost():
    """When memory did not stay intact the log and the status say so, and nothing more is tried with it."""
    world = World()
    world.start("a", idle=HOUR, g0=2 * GIB)

    async def suspend(kernel_id, host_bytes, spill_bytes):
        return Failed("driver says FAILED", memory_intact=False)

    world.kernels_port.suspend = suspend
    one = reconciler(world)
    await rounds(one, world, 3, seconds=600)
    assert world.log.events() == [Event.RECLAIM_STARTED, Event.LOST]
    assert one.status().decisions["a"] == Keep("a", Reason.LOST)


async def test_a_rest_after_a_refusal_ends_when_the_kernel_is_used():
    """Whatever stood in the way may be gone with the next cell, so the long rest does not outlast it."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    world.script = lambda call, when: setattr(
        kernel, "background_work", ("thread",) if (call, when) == ("suspend", "before") else ()
    )
    one = reconciler(world, retry_after=timedelta(days=1))
    await rounds(one, world, 2)
    assert one.status().decisions["a"] == Keep("a", Reason.RETRY_LATER)
    world.script = lambda call, when: None
    world.run_cell("a")
    world.end_cell("a")
    await rounds(one, world, 2, seconds=1200)
    assert kernel.phase is Phase.RECLAIMED


async def test_a_wait_is_ended_once():
    """While the agent is still ending the cells, they are not told again and the log has one row."""
    world = World()
    world.start("a", idle=HOUR, g0=8 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.others["g0"] = 16 * GIB
    world.run_cell("a")
    await rounds(one, world, 10, seconds=60)
    ending = asyncio.Event()
    world.script = lambda call, when: ending if (call, when) == ("end_wait", "before") else None
    for _ in range(3):
        await one.tick()
        world.clock.advance(seconds=60)
    ending.set()
    await rounds(one, world)
    assert world.log.events().count(Event.WAIT_ENDED) == 1
    assert len(world.kernels["a"].errors) == 1
