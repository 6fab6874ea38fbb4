"""Wishes and pins: what people ask for, and what they are told."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from fakes import GIB, World
from rig import HOUR, check, reconciler, rounds

from jupyter_gpu_reclaim.core.model import Decision, Event, Keep, Phase, Reason, Reclaim, Restore, Wait
from jupyter_gpu_reclaim.reconciler import InvalidPin, NotObserved, Reconciler, UnknownKernel


async def answer(one: Reconciler, world: World, wish) -> Decision:
    """What a wish is answered by the next tick."""
    asked = asyncio.ensure_future(wish)
    await asyncio.sleep(0)
    await rounds(one, world)
    return await asked


async def test_a_wish_to_reclaim_is_done_and_says_who_asked():
    """A kernel used a moment ago goes at once when its user asks; the log has their name."""
    world = World()
    kernel = world.start("a", g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    assert kernel.phase is Phase.RESIDENT
    assert await answer(one, world, one.wish_reclaim("a", "ada")) == Reclaim("a", Reason.REQUESTED)
    assert kernel.phase is Phase.RECLAIMED
    assert (world.log.rows[0].reason, world.log.rows[0].actor) == (Reason.REQUESTED, "ada")
    check(world)


async def test_a_wish_that_is_refused_does_not_come_true_later():
    """Asked while a cell runs, the answer is no with its reason, and hours later nothing happens by it."""
    world = World()
    kernel = world.start("a", g0=GIB)
    world.run_cell("a")
    one = reconciler(world, idle_after=timedelta(days=9))
    assert await answer(one, world, one.wish_reclaim("a", "ada")) == Keep("a", Reason.RUNNING)
    world.end_cell("a")
    await rounds(one, world, 3, seconds=3600)
    assert kernel.phase is Phase.RESIDENT
    assert world.log.rows == []


async def test_a_wish_keeps_its_turn():
    """With one reclaim at a time, the second wish is told to wait its turn, and gets it."""
    world = World()
    world.start("a", g0=GIB)
    world.start("b", g0=GIB)
    one = reconciler(world, max_in_flight=1)
    await rounds(one, world)
    asked = [asyncio.ensure_future(one.wish_reclaim(name, "ada")) for name in "ab"]
    await asyncio.sleep(0)
    await rounds(one, world, 2)
    assert [await a for a in asked] == [Reclaim("a", Reason.REQUESTED), Keep("b", Reason.TURN)]
    assert world.kernels["b"].phase is Phase.RECLAIMED


async def test_a_wish_to_restore_waits_for_room_and_is_fulfilled():
    """Without room the answer is Wait; the wish stays, room is made, and the kernel comes back."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=10 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.start("b", idle=timedelta(minutes=5), g0=8 * GIB)
    first = await answer(one, world, one.wish_restore("a", "ada"))
    assert first == Wait("a", Reason.NO_ROOM, 1, {"g0": 2 * GIB})
    await rounds(one, world)
    assert kernel.phase is Phase.RESIDENT
    assert [row.actor for row in world.log.rows if row.event is Event.RESTORE_STARTED] == ["ada"]
    again = await answer(one, world, one.wish_restore("a", "ada"))
    assert again == Keep("a", Reason.ALREADY_RESIDENT)
    check(world)


async def test_a_wish_to_restore_is_given_up_like_a_cell_that_waits():
    """After restore_timeout it is forgotten, so that it does not hold room for ever."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=10 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.others["g0"] = 16 * GIB
    assert (await answer(one, world, one.wish_restore("a", "ada"))).reason is Reason.NO_ROOM
    await rounds(one, world, 12, seconds=60)
    assert one.status().decisions["a"] == Keep("a", Reason.ALREADY_RECLAIMED)
    world.others["g0"] = 0
    await rounds(one, world)
    assert kernel.phase is Phase.RECLAIMED


async def test_the_newer_wish_counts():
    """Reclaim asked for and then restore, before a tick: both are told what became of it, and nothing moves."""
    world = World()
    kernel = world.start("a", g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    asked = [asyncio.ensure_future(wish) for wish in (one.wish_reclaim("a", "x"), one.wish_restore("a", "x"))]
    await asyncio.sleep(0)
    await rounds(one, world)
    assert [await a for a in asked] == [Keep("a", Reason.ALREADY_RESIDENT)] * 2
    assert kernel.phase is Phase.RESIDENT


async def test_a_pin_protects_until_its_end_and_no_longer():
    """A pinned kernel stays however idle it is; after the pin's end it goes."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    kernel.running_since = world.clock.now()
    one = reconciler(world)
    await rounds(one, world)
    kernel.running_since = None
    await one.pin("a", world.clock.now() + HOUR, "ada")
    await rounds(one, world, 2)
    assert one.status().decisions["a"] == Keep("a", Reason.PINNED)
    assert one.status().snapshot.holdings[0].pinned_until is not None
    world.clock.advance(hours=1)
    await rounds(one, world)
    assert kernel.phase is Phase.RECLAIMED
    assert world.log.events() == [Event.PINNED, Event.RECLAIM_STARTED, Event.RECLAIM_DONE]
    check(world)


async def test_asking_for_the_reclaim_ends_the_pin():
    """Whoever asks has changed their mind: the pin ends with a row, but only when the reclaim really begins."""
    world = World()
    kernel = world.start("a", g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    await one.pin("a", world.clock.now() + HOUR, "ada")
    world.run_cell("a")
    assert await answer(one, world, one.wish_reclaim("a", "ada")) == Keep("a", Reason.RUNNING)
    assert one.status().snapshot.holdings[0].pinned_until is not None
    world.end_cell("a")
    assert await answer(one, world, one.wish_reclaim("a", "ada")) == Reclaim("a", Reason.REQUESTED)
    assert kernel.phase is Phase.RECLAIMED
    assert Event.UNPINNED in world.log.events()
    check(world)


async def test_unpinned_it_goes_as_any_other():
    """Taking the pin away is enough; taking away one that is not there writes nothing."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world, mode="off")
    await rounds(one, world)
    await one.pin("a", world.clock.now() + HOUR, "ada")
    await one.unpin("a", "ada")
    await one.unpin("a", "ada")
    one.policy = reconciler(world).policy
    await rounds(one, world)
    assert kernel.phase is Phase.RECLAIMED
    assert world.log.events()[:2] == [Event.PINNED, Event.UNPINNED]


async def test_a_pin_outlives_the_server():
    """A new reconciler reads the pin from the log before it would reclaim anything."""
    world = World()
    kernel = world.start("a", g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    await one.pin("a", world.clock.now() + 3 * HOUR, "ada")
    await one.quiet()
    world.clock.advance(hours=2)
    await rounds(reconciler(world), world)
    assert kernel.phase is Phase.RESIDENT
    world.clock.advance(hours=1)
    await rounds(reconciler(world), world)
    assert kernel.phase is Phase.RECLAIMED


async def test_pins_that_make_no_sense_are_refused():
    """In the past, beyond max_pin, without a time zone: each with its own message, and nothing is pinned."""
    world = World()
    world.start("a", g0=GIB)
    one = reconciler(world)
    await rounds(one, world)
    now = world.clock.now()
    for until, message in (
        (now, "future"),
        (now + timedelta(hours=13), "12 hours at most"),
        ((now + HOUR).replace(tzinfo=None), "time zone"),
    ):
        with pytest.raises(InvalidPin, match=message):
            await one.pin("a", until, "ada")
    assert world.log.rows == []


async def test_unknown_kernels_are_said_to_be_unknown():
    """Wishes and pins for a kernel that is not there raise, and leave nothing behind."""
    world = World()
    one = reconciler(world)
    await rounds(one, world)
    with pytest.raises(UnknownKernel, match="ghost"):
        await answer(one, world, one.wish_reclaim("ghost", "ada"))
    with pytest.raises(UnknownKernel, match="ghost"):
        await one.pin("ghost", world.clock.now() + HOUR, "ada")
    assert world.log.rows == []


async def test_nobody_is_left_waiting_for_an_answer():
    """When the world cannot be looked at, or the server stops, whoever asked is told so."""
    world = World()
    world.start("a", g0=GIB)
    one = reconciler(world)
    world.script = lambda call, when: RuntimeError("NVML fell over") if call == "snapshot" else None
    with pytest.raises(NotObserved, match="NVML fell over"):
        await answer(one, world, one.wish_reclaim("a", "ada"))
    asked = asyncio.ensure_future(one.wish_restore("a", "ada"))
    await asyncio.sleep(0)
    await one.stop(1)
    with pytest.raises(NotObserved, match="stopping"):
        await asked
    with pytest.raises(NotObserved, match="stopping"):
        await one.wish_restore("a", "ada")


async def test_in_a_dry_run_nobody_is_told_that_it_was_done():
    """Asked in a dry run, the answer says that nothing was moved."""
    world = World()
    kernel = world.start("a", g0=GIB)
    one = reconciler(world, mode="dry_run")
    assert await answer(one, world, one.wish_reclaim("a", "ada")) == Keep("a", Reason.DRY_RUN)
    assert kernel.phase is Phase.RESIDENT
    assert world.log.events() == [Event.RECLAIM_PROPOSED]


async def test_a_restore_can_be_asked_for_while_the_reclaim_is_under_way():
    """The wish waits for the reclaim to end, and then brings the kernel back."""
    world = World()
    kernel = world.start("a", idle=HOUR, g0=GIB)
    one = reconciler(world)
    hang = asyncio.Event()
    world.script = lambda call, when: hang if (call, when) == ("suspend", "before") else None
    await one.tick()
    asked = asyncio.ensure_future(one.wish_restore("a", "ada"))
    await asyncio.sleep(0)
    await one.tick()
    assert await asked == Keep("a", Reason.IN_FLIGHT)
    hang.set()
    await one.quiet()
    await rounds(one, world)
    assert kernel.phase is Phase.RESIDENT
    assert one.status().decisions["a"] == Restore("a", Reason.REQUESTED)
    check(world)
