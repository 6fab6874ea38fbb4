"""When the world misbehaves: the log away, agents that know better, kernels that vanish, ports that raise or hang."""

from __future__ import annotations

import asyncio
import logging

from fakes import GIB, START, World
from rig import HOUR, check, reconciler, rounds

from jupyter_gpu_reclaim.core.episodes import EpisodeOutcome, fold
from jupyter_gpu_reclaim.core.model import Event, Keep, Phase, Reason, Transition
from jupyter_gpu_reclaim.reconciler.journal import Journal

RECLAIM = [Event.RECLAIM_STARTED, Event.RECLAIM_DONE]
RESTORE = [Event.RESTORE_STARTED, Event.RESTORE_DONE]


async def test_nothing_is_reclaimed_that_cannot_be_written_down():
    """With the log away an idle kernel stays, and status and decision say why; with the log back it goes."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    world.log.available = False
    await rounds(one, world, 4)
    assert kernel.phase is Phase.RESIDENT
    assert "suspend" not in world.calls
    assert one.status().decisions["a"] == Keep("a", Reason.LOG_UNAVAILABLE)
    world.log.available = True
    await rounds(one, world, 3, seconds=60)
    assert kernel.phase is Phase.RECLAIMED
    assert one.status().problems == ()
    check(world)


async def test_a_log_that_goes_away_later_stops_reclaims_and_no_restore():
    """Restores go on, their rows are kept and written in order when the log is back; reclaims wait for that."""
    world = World()
    kernel, other = world.start("a", idle=HOUR, g0=GIB), world.start("b", g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.log.available = False
    world.run_cell("a")
    await rounds(one, world, 2)
    assert kernel.running_since is not None
    world.clock.advance(hours=1)
    await rounds(one, world, 2)
    assert other.phase is Phase.RESIDENT
    assert one.status().decisions["b"] == Keep("b", Reason.LOG_UNAVAILABLE)
    assert "the fake database is away" in one.status().problems[0]
    assert world.log.events("a") == RECLAIM
    world.log.available = True
    await rounds(one, world, 2)
    assert world.log.events("a") == RECLAIM + RESTORE
    assert other.phase is Phase.RECLAIMED
    check(world)


async def test_an_intent_that_may_or_may_not_be_written_is_followed_by_what_became_of_it():
    """The log's answer is lost after it wrote: nothing was moved, and the log ends up saying so."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    world.script = lambda call, when: OSError("cut off") if (call, when) == ("append", "after") else None
    one = reconciler(world)
    await rounds(one, world)
    assert kernel.phase is Phase.RESIDENT
    assert "suspend" not in world.calls
    world.script = lambda call, when: None
    await rounds(one, world)
    assert world.log.events() == [Event.RECLAIM_STARTED, Event.RECLAIM_REFUSED]
    assert world.log.rows[-1].reason is Reason.LOG_UNAVAILABLE
    check(world)


async def test_a_log_that_hangs_does_not_hold_up_a_restore():
    """The restore goes ahead though the log never answers, and is written once it does."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.script = lambda call, when: asyncio.Event() if call == "append" else None
    world.run_cell("a")
    await one.tick()
    async with asyncio.timeout(30):
        while kernel.running_since is None:
            await asyncio.sleep(0.01)
    world.script = lambda call, when: None
    await rounds(one, world)
    await rounds(one, world)
    assert world.log.events() == RECLAIM + RESTORE
    check(world)


async def test_rows_kept_for_a_log_that_is_away_are_bounded_and_counted(caplog):
    """Beyond the bound the oldest is given up, said in the server's log and to whoever asks; the others are kept."""
    world, told = World(), []
    journal = Journal(world.log, told.append, most_pending=3)
    world.log.available = False
    rows = [
        Transition(id=str(i), at=START, kernel_id="a", event=Event.PINNED, phase=Phase.RESIDENT)
        for i in range(5)
    ]
    for row in rows:
        await journal.record(row)
    assert (journal.pending, journal.given_up) == (3, 2)
    assert "2 of its rows are lost" in journal.complaint()
    assert sum("is given up" in record.message for record in caplog.records) == 2
    world.log.available = True
    journal.kick()
    await journal.flushed()
    assert world.log.rows == rows[2:]
    assert told == rows
    assert (journal.pending, journal.complaint()) == (0, None)


async def test_a_kernel_that_restored_itself_is_believed():
    """Found resident though it was reclaimed, its episode ends as restored by itself, at no earlier than a second."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    kernel.phase, kernel.running_since = Phase.RESIDENT, world.clock.now()
    await rounds(one, world, seconds=0.5)
    assert one.status().snapshot.holdings[0].phase is Phase.RECLAIMED
    await rounds(one, world, 2, seconds=0.5)
    assert one.status().snapshot.holdings[0].phase is Phase.RESIDENT
    (episode,) = fold(world.log.rows)
    assert (episode.outcome, episode.restore_reason) == (EpisodeOutcome.RESTORED, Reason.SELF_RESTORED)
    check(world)


async def test_a_status_that_crossed_the_outcome_is_not_taken_for_news():
    """A look that shows for a moment what was before the outcome writes nothing."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    await rounds(one, world, seconds=0.2)
    kernel.phase = Phase.RESIDENT
    await rounds(one, world, 2, seconds=0.2)
    kernel.phase = Phase.RECLAIMED
    await rounds(one, world, 5)
    assert world.log.events() == RECLAIM
    check(world)


async def test_a_move_given_up_as_failed_that_was_done_after_all():
    """The answer was lost and the reclaim was done: the agent's word settles it, and its cell gets its bytes."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    world.script = lambda call, when: (
        TimeoutError("no answer") if (call, when) == ("suspend", "after") else None
    )
    await rounds(one, world)
    assert world.log.events() == [Event.RECLAIM_STARTED, Event.RECLAIM_FAILED]
    world.run_cell("a")
    await rounds(one, world, 3)
    assert kernel.running_since is not None
    assert world.log.events() == [Event.RECLAIM_STARTED, Event.RECLAIM_FAILED, Event.RECLAIM_DONE, *RESTORE]
    assert fold(world.log.rows)[0].outcome is EpisodeOutcome.RESTORED
    check(world)


async def test_a_reclaimed_kernel_that_ends_closes_its_episode():
    """Shut down while reclaimed, it leaves one row that says so; a resident one leaves none."""
    world = World()
    world.start("a", idle=HOUR, g0=GIB)
    world.start("b", g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.kernels.clear()
    await rounds(one, world, 2)
    assert world.log.events("a") == [*RECLAIM, Event.KERNEL_GONE]
    assert world.log.events("b") == []
    assert fold(world.log.rows)[0].outcome is EpisodeOutcome.KERNEL_GONE


async def test_a_kernel_that_ends_while_it_is_moved():
    """Its move is given up, the log says it is gone, and its turn is free for the next."""
    world = World()
    world.start("a", idle=2 * HOUR, g0=GIB)
    other = world.start("b", idle=HOUR, g0=GIB)
    one = reconciler(world, max_in_flight=1)
    never = asyncio.Event()
    world.script = lambda call, when: never if call == "suspend" else None
    await one.tick()
    await asyncio.sleep(0)
    del world.kernels["a"]
    world.script = lambda call, when: None
    await rounds(one, world)
    assert world.log.events("a") == [Event.RECLAIM_STARTED, Event.KERNEL_GONE]
    assert other.phase is Phase.RECLAIMED


async def test_a_restart_under_the_same_id_is_another_kernel():
    """A restarted kernel did not restore itself: its old bytes are said to be gone, and it starts afresh."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    kernel.managed, kernel.pid = False, 99
    await rounds(one, world)
    assert one.status().decisions["a"] == Keep("a", Reason.LINK_LOST)
    kernel.managed, kernel.pid, kernel.phase = True, 101, Phase.RESIDENT
    kernel.footprint, kernel.last_active_at = {}, None
    await rounds(one, world, 3)
    assert world.log.events() == [*RECLAIM, Event.KERNEL_GONE]
    assert one.status().decisions["a"] == Keep("a", Reason.NO_GPU_MEMORY)
    check(world)


async def test_an_agent_that_is_away_for_a_while_changes_nothing():
    """A reclaimed kernel whose link breaks and comes back is still reclaimed, with no row about it."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    kernel.managed, kernel.phase = False, Phase.RESIDENT
    await rounds(one, world, 3)
    kernel.managed, kernel.phase = True, Phase.RECLAIMED
    world.run_cell("a")
    await rounds(one, world)
    assert world.log.events() == RECLAIM + RESTORE
    check(world)


async def test_a_world_that_cannot_be_looked_at_is_said_once_and_looked_at_again(caplog):
    """Ticks that see nothing move nothing, keep the last status with the problem in it, and go on."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    world.script = lambda call, when: RuntimeError("boom") if call == "snapshot" else None
    with caplog.at_level(logging.ERROR):
        await rounds(one, world, 5)
    assert one.status().problems == ("GPUs and kernels cannot be looked at: boom.",)
    assert len(caplog.records) == 1
    world.script = lambda call, when: None
    await rounds(one, world)
    assert kernel.phase is Phase.RECLAIMED
    assert one.status().problems == ()


async def test_a_gpu_that_cannot_be_seen_is_a_problem_with_a_name():
    """What NVML said stands in the status, nothing is reclaimed, and a waiting cell gets its bytes."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.start("b", idle=HOUR, g0=GIB)
    world.gpus_problem = "NVML: driver not loaded"
    world.run_cell("a")
    await rounds(one, world)
    assert one.status().problems == ("NVML: driver not loaded",)
    assert kernel.running_since is not None
    assert one.status().decisions["b"] == Keep("b", Reason.GPU_UNKNOWN)


async def test_a_listener_that_raises_harms_nobody():
    """The others are told all the same, every row exactly once."""
    world = World()
    world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    heard = []
    one.on_change(lambda status, rows: 1 / 0)
    end = one.on_change(lambda status, rows: heard.extend(rows))
    await rounds(one, world, 2)
    assert heard == world.log.rows
    end()
    world.run_cell("a")
    await rounds(one, world, 2)
    assert len(heard) == 2


async def test_a_past_that_is_read_late_does_not_undo_the_present():
    """A new server whose log does not answer at first restores a waiting kernel; the log's old news changes nothing."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    await rounds(reconciler(world), world)
    world.run_cell("a")
    one = reconciler(world)
    world.script = lambda call, when: OSError("not yet") if call in ("query", "append") else None
    await rounds(one, world)
    assert kernel.running_since is not None
    world.script = lambda call, when: OSError("not yet") if call == "append" else None
    await rounds(one, world)
    assert one.status().snapshot.holdings[0].phase is Phase.RESIDENT
    world.script = lambda call, when: None
    await rounds(one, world, 3)
    assert one.status().snapshot.holdings[0].phase is Phase.RESIDENT
    assert world.log.events() == RECLAIM + RESTORE
    check(world)
