"""Admission as the loop does it: room for running code, running places, early restores, warnings, neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from fakes import GIB, World
from rig import HOUR, POLICY, check, reconciler, rounds

from jupyter_gpu_reclaim.core.model import Admit, Event, Keep, Phase, Reason, Restore, Wait, Warn
from jupyter_gpu_reclaim.reconciler import Reconciler

MINUTE = timedelta(minutes=1)


async def answer(one: Reconciler, world: World, wish):
    """What a wish is answered by the next tick."""
    asked = asyncio.ensure_future(wish)
    await asyncio.sleep(0)
    await rounds(one, world)
    return await asked


class Board:
    """See `ports.PressureBoard`: one machine's, in memory, with a list of what happened."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self.elsewhere: dict[str, int] = {}
        self.published: list[tuple[dict[str, int], datetime | None]] = []
        self.lock = asyncio.Lock()
        self.claims: list[tuple[str, ...]] = []

    def waiting_elsewhere(self) -> Mapping[str, int]:
        """See `ports.PressureBoard`."""
        return self.elsewhere

    def publish(self, waiting: Mapping[str, int], since: datetime | None) -> None:
        """See `ports.PressureBoard`."""
        self.published.append((dict(waiting), since))

    @asynccontextmanager
    async def claim(self, gpus: Collection[str]) -> AsyncIterator[None]:
        """See `ports.PressureBoard`; one lock for all GPUs."""
        async with self.lock:
            self.claims.append(tuple(gpus))
            yield


def among_neighbours(world: World, board: Board) -> Reconciler:
    """A reconciler that shares the machine."""
    return Reconciler(
        world.observer, world.kernels_port, world.log, world.clock, POLICY, tick_seconds=0.05, board=board
    )


async def test_running_code_gets_its_room_from_the_idle():
    """Code that could not allocate waits while an idle kernel is reclaimed, and then has its bytes; once each."""
    world = World()
    world.start("grows", g0=8 * GIB)
    world.run_cell("grows")
    idle = world.start("idle", idle=timedelta(minutes=5), g0=8 * GIB)
    world.want_room("grows", g0=4 * GIB)
    one = reconciler(world)
    await one.tick()
    assert one.status().decisions["grows"] == Wait("grows", Reason.NO_ROOM, 1, {"g0": 4 * GIB})
    assert one.status().waits["grows"].holders[0].kernel_id == "idle"
    await one.quiet()
    await rounds(one, world, 2)
    assert idle.phase is Phase.RECLAIMED
    assert world.kernels["grows"].footprint == {"g0": 12 * GIB}
    assert world.calls.count("admit") == 1
    assert one.status().decisions["grows"] == Keep("grows", Reason.RUNNING)
    check(world)


async def test_room_is_held_for_code_that_was_told_until_it_has_taken_it():
    """While the word is on its way nobody else gets those bytes; when nothing comes of it, it is looked at anew."""
    world = World()
    world.start("away", idle=HOUR, g0=6 * GIB)
    one = reconciler(world)
    await rounds(one, world)
    world.start("grows", g0=8 * GIB)
    world.run_cell("grows")
    world.want_room("grows", g0=4 * GIB)
    deaf = asyncio.Event()
    world.script = lambda call, when: deaf if (call, when) == ("admit", "before") else None
    await one.tick()
    assert one.status().decisions["grows"] == Admit("grows", Reason.ROOM)
    world.run_cell("away")
    await one.tick()
    assert one.status().decisions["grows"] == Keep("grows", Reason.IN_FLIGHT)
    assert one.status().decisions["away"] == Wait("away", Reason.NO_ROOM, 1, {"g0": 2 * GIB})
    deaf.set()
    await asyncio.sleep(0)
    await rounds(one, world, 2)
    assert world.kernels["grows"].footprint == {"g0": 12 * GIB}
    assert world.kernels["away"].phase is Phase.RECLAIMED
    check(world)


async def test_an_admission_that_is_not_heard_is_given_again():
    """An agent that never says it went ahead is told again after two seconds, never twice at once."""
    world = World()
    world.start("grows", g0=8 * GIB)
    world.run_cell("grows")
    world.want_room("grows", g0=4 * GIB)
    one = reconciler(world)
    world.others["g0"] = 4 * GIB
    world.script = lambda call, when: (
        world.others.update(g0=8 * GIB) if (call, when) == ("admit", "before") else None
    )
    for _ in range(3):
        await one.tick()
        await asyncio.sleep(0)
        world.clock.advance(seconds=2)
        world.others["g0"] = 4 * GIB
    assert world.calls.count("admit") == 1
    await one.quiet()
    await one.tick()
    await asyncio.sleep(0)
    assert world.calls.count("admit") == 2
    assert one.status().decisions["grows"] == Admit("grows", Reason.ROOM)
    await one.quiet()


async def test_a_running_place_goes_to_whoever_came_first():
    """With one place, cells run one after the other in the order in which they came; restores too."""
    world = World()
    for name in "abc":
        world.start(name, g0=2 * GIB)
    world.start("away", idle=HOUR, g0=2 * GIB)
    one = reconciler(world, max_running_per_gpu=1)
    await rounds(one, world)
    world.run_cell("a")
    for name in ("away", "c", "b"):
        world.run_cell(name) if name == "away" else world.want_place(name)
        await rounds(one, world, seconds=1)
    assert [w.position for w in one.status().waits.values()] == [1, 2, 3]
    assert [h.kernel_id for h in one.status().waits["b"].holders] == ["a"]
    ran = []
    for _ in range(4):
        (running,) = [k.kernel_id for k in world.kernels.values() if k.running_since]
        ran.append(running)
        world.end_cell(running)
        await rounds(one, world, 2)
    assert ran == ["a", "away", "c", "b"]
    check(world)


async def test_a_cell_that_waits_too_long_for_its_turn_ends_with_one_clear_error():
    """After restore_timeout the wait for a running place ends like one for room, once; the next cell asks anew."""
    world = World()
    world.start("a", g0=2 * GIB)
    kernel = world.start("b", g0=2 * GIB)
    world.run_cell("a")
    one = reconciler(world, max_running_per_gpu=1)
    world.want_place("b")
    await rounds(one, world, 12, seconds=60)
    (message,) = kernel.errors
    assert "10 min" in message
    assert "The cell has not run" in message
    assert (world.log.rows[-1].event, world.log.rows[-1].reason) == (Event.WAIT_ENDED, Reason.NO_PLACE)
    world.want_place("b")
    world.end_cell("a")
    await rounds(one, world)
    assert kernel.running_since is not None


async def test_a_wish_to_prefetch_brings_back_what_fits():
    """Its log row says why and who; unused it gives way to whoever waits, long before its cooldown is over."""
    world = World()
    early = world.start("early", idle=HOUR, g0=6 * GIB)
    waits = world.start("waits", idle=HOUR, g0=12 * GIB)
    one = reconciler(world)
    await rounds(one, world, 2)
    assert (early.phase, waits.phase) == (Phase.RECLAIMED, Phase.RECLAIMED)
    assert await answer(one, world, one.wish_prefetch("early", "ada")) == Restore("early", Reason.PREFETCH)
    assert early.phase is Phase.RESIDENT
    row = next(row for row in world.log.rows if row.event is Event.RESTORE_STARTED)
    assert (row.reason, row.actor) == (Reason.PREFETCH, "ada")
    assert one.status().decisions["early"] == Restore("early", Reason.PREFETCH)
    world.run_cell("waits")
    await rounds(one, world, 3)
    assert (early.phase, waits.phase) == (Phase.RECLAIMED, Phase.RESIDENT)
    refused = await answer(one, world, one.wish_prefetch("early", "ada"))
    assert refused == Keep("early", Reason.NO_SPARE_ROOM)
    world.end_cell("waits")
    await rounds(one, world, 2, seconds=30)
    assert early.phase is Phase.RECLAIMED, "what was refused is forgotten"
    check(world)


async def test_once_used_an_early_restore_is_like_any_other():
    """A cell in it takes away what made it the first to give way."""
    world = World()
    early = world.start("early", idle=HOUR, g0=6 * GIB)
    waits = world.start("waits", idle=HOUR, g0=12 * GIB)
    one = reconciler(world)
    await rounds(one, world, 2)
    await answer(one, world, one.wish_prefetch("early", "ada"))
    world.run_cell("early")
    await rounds(one, world)
    world.end_cell("early")
    world.run_cell("waits")
    await rounds(one, world, 3)
    assert (early.phase, waits.phase) == (Phase.RESIDENT, Phase.RECLAIMED)
    assert one.status().decisions["early"] == Keep("early", Reason.COOLDOWN)


async def test_an_idle_kernel_is_reclaimed_only_after_its_warning():
    """Warned at 19 of 20 minutes, gone at 20; a use or a pin after the warning keeps it and earns a new one."""
    world = World()
    kernel = world.start("a", g0=GIB)
    one = reconciler(world, warn_before=MINUTE)
    await rounds(one, world, 19, seconds=60)
    assert one.status().snapshot.holdings[0].warned_at is None
    await one.tick()
    assert one.status().decisions["a"] == Warn("a", Reason.IDLE)
    assert one.status().snapshot.holdings[0].warned_at == world.clock.now()
    assert one.status().due_at["a"] == world.clock.now() + MINUTE
    world.run_cell("a")
    world.end_cell("a")
    await rounds(one, world, 19, seconds=60)
    assert one.status().snapshot.holdings[0].warned_at is None
    await rounds(one, world, seconds=0)
    assert one.status().decisions["a"] == Warn("a", Reason.IDLE)
    await one.pin("a", world.clock.now() + 2 * MINUTE, "ada")
    await rounds(one, world, 2, seconds=60)
    assert one.status().decisions["a"] == Keep("a", Reason.PINNED)
    await one.tick()
    assert one.status().decisions["a"] == Warn("a", Reason.IDLE)
    world.clock.advance(seconds=59)
    await rounds(one, world, seconds=1)
    assert kernel.phase is Phase.RESIDENT
    await rounds(one, world)
    assert kernel.phase is Phase.RECLAIMED
    check(world)


async def test_the_lower_priority_gives_way_first():
    """The policy's patterns decide whom room is taken from, before the time since their last use does."""
    world = World()
    world.start("away", idle=HOUR, g0=8 * GIB)
    one = reconciler(world, priorities={"python3": 1, "demo*": -1, "late*": 5})
    await rounds(one, world)
    for name, minutes in (("old", 10), ("demo", 3)):
        world.start(name, idle=timedelta(minutes=minutes), g0=8 * GIB).kernel_name = "other"
    world.run_cell("away")
    await rounds(one, world, 2)
    phases = {name: kernel.phase for name, kernel in world.kernels.items()}
    assert phases == {"away": Phase.RESIDENT, "old": Phase.RESIDENT, "demo": Phase.RECLAIMED}
    assert {h.kernel_id: h.priority for h in one.status().snapshot.holdings} == {
        "away": 1,
        "old": 0,
        "demo": -1,
    }


async def test_a_restore_looks_again_under_the_lock_of_its_gpus():
    """While another server has the lock the restore waits; if that one took the room, it is refused and waits on."""
    world, board = World(), Board()
    kernel = world.start("a", idle=HOUR, g0=10 * GIB)
    one = among_neighbours(world, board)
    await rounds(one, world)
    world.run_cell("a")
    async with board.lock:
        await one.tick()
        assert one.status().decisions["a"] == Restore("a", Reason.USER_CODE)
        await asyncio.sleep(0)
        assert "resume" not in world.calls
        world.others["g0"] = 10 * GIB
    await rounds(one, world, seconds=0.5)
    assert board.claims == [("g0",)]
    assert world.log.events("a")[-2:] == [Event.RESTORE_STARTED, Event.RESTORE_REFUSED]
    assert "4.0 GiB short" in world.log.rows[-1].detail
    assert "resume" not in world.calls
    world.clock.advance(seconds=1)
    await rounds(one, world)
    assert one.status().decisions["a"] == Wait("a", Reason.NO_ROOM, 1, {"g0": 4 * GIB})
    world.others["g0"] = 0
    await rounds(one, world)
    assert kernel.running_since is not None
    check(world)


async def test_what_waits_in_vain_is_told_to_the_neighbours():
    """The first in line is published while nobody here can make its room, kept fresh, and withdrawn when it is over."""
    world, board = World(), Board()
    world.start("a", idle=HOUR, g0=10 * GIB)
    one = among_neighbours(world, board)
    await rounds(one, world)
    assert board.published == []
    world.others["g0"] = 12 * GIB
    since = world.clock.now()
    world.run_cell("a")
    await rounds(one, world, 3)
    assert board.published == [({"g0": 10 * GIB}, since)] * 3
    world.others["g0"] = 0
    await rounds(one, world, 2)
    assert board.published[3:] == [({}, None)]


async def test_what_neighbours_wait_for_is_taken_from_the_idle():
    """Their bytes count as pressure: an idle kernel here gives way, with nobody here waiting; trouble is shown."""
    world, board = World(), Board()
    kernel = world.start("a", idle=timedelta(minutes=5), g0=10 * GIB)
    one = among_neighbours(world, board)
    await rounds(one, world)
    assert kernel.phase is Phase.RESIDENT
    board.elsewhere, board.problem = {"g0": 8 * GIB}, "The board cannot be read."
    await rounds(one, world)
    assert kernel.phase is Phase.RECLAIMED
    assert one.status().snapshot.outside_pressure == {"g0": 8 * GIB}
    assert one.status().problems == ("The board cannot be read.",)
    await one.stop()
    assert board.published == []


async def test_a_status_that_crosses_the_word_gives_no_second_admission():
    """An agent dates the wait a little otherwise than the server did: the same wait, until it is over."""
    world = World()
    kernel = world.start("a", g0=2 * GIB)
    other = world.start("b", g0=2 * GIB)
    one = reconciler(world, max_running_per_gpu=1)
    await rounds(one, world)
    deaf = asyncio.Event()
    world.script = lambda call, when: deaf if (call, when) == ("admit", "before") else None
    world.want_place("a")
    await one.tick()
    assert one.status().decisions["a"] == Admit("a", Reason.PLACE)
    kernel.place_wanted_at -= timedelta(milliseconds=3)
    other.place_wanted_at = kernel.place_wanted_at - MINUTE
    await one.tick()
    assert one.status().decisions["a"] == Keep("a", Reason.IN_FLIGHT)
    assert one.status().decisions["b"] == Wait("b", Reason.NO_PLACE, 1)
    deaf.set()
    await one.quiet()
