"""The loop as it runs in a server: woken, busy, stopped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from fakes import GIB, FakeKernel, World
from rig import HOUR, POLICY, check, reconciler

from jupyter_gpu_reclaim.core.model import Event, Phase, Policy, Reason
from jupyter_gpu_reclaim.reconciler import Reconciler


class WallClock:
    """The real time, as the server has it."""

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(UTC)


async def until(condition, what: str) -> None:
    """Wait for a condition, with a generous deadline."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


def runs_hourly(
    world: World, policy: Policy, **idle: timedelta
) -> tuple[FakeKernel, Reconciler, asyncio.Task[None]]:
    """A kernel with a GiB, and a loop by the real time that has begun to run and would tick once an hour."""
    world.clock = WallClock()
    kernel = world.start("a", **idle, g0=GIB)
    one = Reconciler(
        world.observer, world.kernels_port, world.log, world.clock, policy, tick_seconds=3600
    )  # fmt: skip
    return kernel, one, asyncio.create_task(one.run())


async def test_it_runs_until_it_is_stopped():
    """A kernel is reclaimed, a cell wakes the loop long before the next tick and gets its bytes; then it stops."""
    world = World()
    kernel, one, running = runs_hourly(world, POLICY, idle=HOUR)
    await until(lambda: kernel.phase is Phase.RECLAIMED, "reclaimed")
    world.run_cell("a")
    one.wake()
    await until(lambda: kernel.running_since is not None, "restored")
    await one.stop(5)
    await asyncio.wait_for(running, 5)
    assert world.log.events()[-1] is Event.RESTORE_DONE
    check(world)


async def test_a_reclaim_for_idleness_is_not_late():
    """A kernel that becomes idle for long enough is warned of and reclaimed, though the next tick is an hour away."""
    world = World()
    policy = replace(POLICY, idle_after=timedelta(milliseconds=400), warn_before=timedelta(milliseconds=200))
    kernel, one, running = runs_hourly(world, policy)
    await until(lambda: kernel.phase is Phase.RECLAIMED, "reclaimed")
    await one.stop(5)
    await running
    intent = next(row for row in world.log.rows if row.event is Event.RECLAIM_STARTED)
    assert intent.reason is Reason.IDLE
    check(world)


async def test_what_is_due_before_the_next_tick_is_not_forgotten():
    """A restore that failed is tried again after its rest though the next tick would be an hour away."""
    world = World()
    kernel, one, running = runs_hourly(world, POLICY, idle=HOUR)
    await until(lambda: kernel.phase is Phase.RECLAIMED, "reclaimed")
    tries = []
    world.script = lambda call, when: (
        tries.append(call) or world.others.__setitem__("g0", 16 * GIB if len(tries) == 1 else 0)
        if (call, when) == ("resume", "before")
        else world.others.__setitem__("g0", 0)
    )
    world.run_cell("a")
    one.wake()
    await until(lambda: kernel.running_since is not None, "restored")
    assert tries == ["resume", "resume"]
    await one.stop(5)
    await running
    check(world)


async def test_wakes_and_defects_never_make_it_a_busy_loop():
    """Woken without end by a world that only raises, it looks again, but never without the pause after a defect."""
    world = World()
    one = reconciler(world)

    def fail(call, when):
        one.wake()
        return RuntimeError("boom")

    world.script = fail
    running = asyncio.create_task(one.run())
    await until(lambda: len(world.calls) >= 3, "three looks")
    started, before = asyncio.get_running_loop().time(), len(world.calls)
    await until(lambda: len(world.calls) >= before + 4, "four more looks")
    spent = asyncio.get_running_loop().time() - started
    # A lower bound: pauses never end early, however slow the machine is. The rig's tick is 0.05 s.
    assert spent >= 3 * 0.05
    await one.stop(5)
    await running


async def test_stopping_waits_for_moves_and_writes_them_down():
    """A move under way when the server stops is waited for, and its outcome is in the log."""
    world = World()
    world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    gate = asyncio.Event()
    world.script = lambda call, when: gate if (call, when) == ("suspend", "before") else None
    await one.tick()
    stopping = asyncio.create_task(one.stop(30))
    await asyncio.sleep(0)
    gate.set()
    await stopping
    assert world.log.events() == [Event.RECLAIM_STARTED, Event.RECLAIM_DONE]
    check(world)


async def test_stopping_does_not_wait_for_ever():
    """A move that hangs is let go after the timeout; its agent settles it with the next server."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    world.script = lambda call, when: asyncio.Event() if (call, when) == ("suspend", "after") else None
    await one.tick()
    await one.stop(0.05)
    assert world.log.events() == [Event.RECLAIM_STARTED]
    world.script = lambda call, when: None
    world.clock.advance(seconds=1)
    after = reconciler(world)
    await after.tick()
    await after.quiet()
    assert world.log.events() == [Event.RECLAIM_STARTED, Event.RECLAIM_DONE]
    assert kernel.phase is Phase.RECLAIMED
    check(world)
