"""A copy that came out wrong: said loudly, nothing more is reclaimed with what made it, until somebody clears it."""

from __future__ import annotations

import pytest
from fakes import GIB, World
from rig import HOUR, check, reconciler, rounds

from jupyter_gpu_reclaim.core.model import Event, Keep, Phase, Reason
from jupyter_gpu_reclaim.reconciler import UnknownAlarm

ALARMED = [Event.RECLAIM_STARTED, Event.RECLAIM_FAILED, Event.ALARM_RAISED]


async def test_an_alarm_stops_reclaims_on_that_gpu_and_no_other():
    """The log tells failure and alarm; kernels on that GPU are kept and told why; the other GPU's are reclaimed."""
    world = World(g0=16 * GIB, g1=16 * GIB)
    wrong, beside, elsewhere = (
        world.start("a", idle=2 * HOUR, g0=GIB),
        world.start("b", g0=GIB),
        world.start("c", g1=GIB),
    )
    world.damaging = {"a"}
    one = reconciler(world)
    await rounds(one, world)
    assert world.log.events("a") == ALARMED
    raised = world.log.rows[-1]
    assert (raised.reason, raised.framework, raised.driver) == (Reason.COPY_DAMAGED, "torch 2.13.0", "580")
    assert raised.footprint == {"g0": GIB}
    world.clock.advance(hours=1)
    await rounds(one, world, 2)
    assert [kernel.phase for kernel in (wrong, beside, elsewhere)] == [
        Phase.RESIDENT, Phase.RESIDENT, Phase.RECLAIMED,
    ]  # fmt: skip
    status = one.status()
    assert status.decisions["b"] == Keep("b", Reason.DISTRUSTED)
    assert status.alarms[0].id in status.explanations["b"]
    assert "A checksum differs." in status.problems[0]
    check(world)


async def test_an_alarm_of_a_restore_keeps_the_bytes_on_the_host_and_trying():
    """A restore that comes out wrong leaves the kernel reclaimed; tried again it succeeds; the alarm stays."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.damaging = {"a"}
    world.run_cell("a")
    await rounds(one, world, seconds=0)
    assert kernel.phase is Phase.RECLAIMED
    assert kernel.waiting == 1
    world.damaging = set()
    await rounds(one, world, 2, seconds=60)
    assert kernel.running_since is not None
    assert world.log.events("a")[2:] == [
        Event.RESTORE_STARTED, Event.RESTORE_FAILED, Event.ALARM_RAISED, Event.RESTORE_STARTED, Event.RESTORE_DONE,
    ]  # fmt: skip
    world.end_cell("a")
    world.clock.advance(hours=1)
    await rounds(one, world)
    assert one.status().decisions["a"] == Keep("a", Reason.DISTRUSTED)
    check(world)


async def test_an_alarm_outlives_the_server_and_ends_when_it_is_cleared():
    """A new server reads it from the log; cleared, it is on record by whom, and the kernel is reclaimed."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    world.damaging = {"a"}
    first = reconciler(world)
    await rounds(first, world)
    await first.stop()
    world.damaging = set()
    world.clock.advance(hours=1)
    second = reconciler(world)
    await rounds(second, world, 2)
    assert kernel.phase is Phase.RESIDENT
    [alarm] = second.status().alarms
    with pytest.raises(UnknownAlarm):
        await second.clear_alarm("another", "ada")
    await second.clear_alarm(alarm.id, "ada")
    await rounds(second, world, 2)
    assert kernel.phase is Phase.RECLAIMED
    assert second.status().alarms == ()
    [cleared] = [row for row in world.log.rows if row.event is Event.ALARM_CLEARED]
    assert cleared.actor == "ada"
    assert alarm.id in cleared.detail
    third = reconciler(world)
    await rounds(third, world)
    assert third.status().alarms == ()
    check(world)


async def test_another_driver_is_tried_anew():
    """What is not trusted is one driver with one GPU: after an update kernels are reclaimed again."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    world.damaging = {"a"}
    one = reconciler(world)
    await rounds(one, world)
    world.damaging, world.driver = set(), "590"
    world.clock.advance(hours=1)
    await rounds(one, world)
    assert kernel.phase is Phase.RECLAIMED
    check(world)


async def test_nothing_is_reclaimed_while_alarms_are_not_known():
    """A server whose log cannot be read yet reclaims nothing, whatever may stand in it."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    world.script = lambda call, when: OSError("away") if call == "query" else None
    one = reconciler(world)
    await rounds(one, world, 2)
    assert kernel.phase is Phase.RESIDENT
    assert one.status().decisions["a"] == Keep("a", Reason.LOG_UNAVAILABLE)
    world.script = lambda call, when: None
    await rounds(one, world, 2)
    assert kernel.phase is Phase.RECLAIMED
    check(world)
