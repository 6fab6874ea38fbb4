"""Two kernels that each need the whole GPU, second by second: moving must not eat the time for work."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta

import pytest
from fakes import GIB, World
from rig import check, reconciler

from jupyter_gpu_reclaim.core.model import Event, Phase, Reason, Reclaim
from jupyter_gpu_reclaim.reconciler import Reconciler

CELL_SECONDS, MOVE_SECONDS, DAY_SECONDS = 3, 3, 900
MOVING = (Phase.RECLAIMING, Phase.RESTORING)


class PingPong:
    """Users who run cell after cell in two kernels, for whose data there is room one at a time."""

    def __init__(self) -> None:
        self.world = World()
        self.world.move_takes = timedelta(seconds=MOVE_SECONDS)
        self.world.script = self._hold
        self._moves: list[tuple[datetime, asyncio.Event]] = []
        self._cell_ends: dict[str, datetime] = {}
        self.seconds: Counter[tuple[str, str]] = Counter()  # by kernel and what it does: "work" or "move"
        self.stayed: list[bool] = []  # whether a stay was in force, by second
        self.world.start("a", g0=14 * GIB)
        self.world.start("b", g0=14 * GIB).phase = Phase.RECLAIMED

    def _hold(self, call: str, when: str) -> asyncio.Event | None:
        if when != "before" or call not in ("suspend", "resume"):
            return None
        over = asyncio.Event()
        self._moves.append((self.world.clock.now() + self.world.move_takes, over))
        return over

    async def play(self, one: Reconciler) -> None:
        """Second by second: cells end, moves end, the loop ticks, the next cells begin."""
        for _ in range(DAY_SECONDS):
            self._end_cells()
            await self._end_moves()
            await one.tick()
            for _ in range(20):
                await asyncio.sleep(0)
            self._begin_cells(one)
            self._count(one)
            self.world.clock.advance(seconds=1)
        while self._moves:
            self.world.clock.advance(seconds=1)
            await self._end_moves()
        await one.quiet()

    def share_of_work(self, name: str) -> float:
        """Of the kernel's turns on the GPU, from the first byte in to the last byte out, the part not spent moving."""
        work, moves = self.seconds[name, "work"], self.seconds[name, "move"]
        return work / (work + moves)

    async def _end_moves(self) -> None:
        now = self.world.clock.now()
        for due, over in self._moves:
            if due <= now:
                over.set()
        self._moves = [move for move in self._moves if not move[1].is_set()]
        for _ in range(20):
            await asyncio.sleep(0)

    def _end_cells(self) -> None:
        for name, end in list(self._cell_ends.items()):
            if end <= self.world.clock.now():
                self.world.end_cell(name)
                del self._cell_ends[name]

    def _begin_cells(self, one: Reconciler) -> None:
        phases = {h.kernel_id: h.phase for h in one.status().snapshot.holdings}
        decided = one.status().decisions
        for name, kernel in self.world.kernels.items():
            if kernel.running_since is not None:
                until = kernel.running_since + timedelta(seconds=CELL_SECONDS)
                self._cell_ends.setdefault(name, until)
            elif not kernel.waiting and phases[name] not in MOVING and not isinstance(decided[name], Reclaim):
                self.world.run_cell(name)

    def _count(self, one: Reconciler) -> None:
        for name, kernel in self.world.kernels.items():
            rows = [row for row in self.world.log.rows if row.kernel_id == name]
            if rows and rows[-1].phase in MOVING:
                self.seconds[name, "move"] += 1
            elif kernel.phase is Phase.RESIDENT:
                self.seconds[name, "work"] += 1
        self.stayed.append(bool(one.status().residence))


@pytest.mark.parametrize("thrashing_is_measured", [True, False])
async def test_ping_pong_leaves_each_four_fifths_of_its_turns_for_work(thrashing_is_measured: bool):
    """With no cooldown at all, the measured traffic brings a stay of 30 s; unmeasured, moves eat most of the time."""
    game = PingPong()
    one = reconciler(
        game.world,
        pressure_idle_after=timedelta(0),
        cooldown=timedelta(0),
        quantum=timedelta(seconds=30),
        max_moving_share=0.2 if thrashing_is_measured else 0.0,
    )
    await game.play(one)
    shares = {name: game.share_of_work(name) for name in "ab"}
    turns = sum(row.event is Event.RESTORE_DONE for row in game.world.log.rows)
    reasons = {row.reason for row in game.world.log.rows if row.event is Event.RECLAIM_STARTED}
    print(f"share of work {shares}, {turns} turns")
    assert reasons == {Reason.ADMISSION}
    check(game.world)
    if not thrashing_is_measured:
        assert max(shares.values()) < 0.6
        return
    assert min(shares.values()) >= 0.8
    worked = [game.seconds[name, "work"] for name in "ab"]
    assert min(worked) >= 0.4 * 0.8 * DAY_SECONDS
    assert all(game.stayed[120:]), "once it is in force it does not come and go"
    assert one.status().pace.traffic["g0"].moving_share <= 0.2
