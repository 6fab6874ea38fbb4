"""A server without Jupyter: a real reconciler over fake kernels, whose bytes lie on a GPU that processes share."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fakes import FakeKernel, FakeKernels, World

from jupyter_gpu_reclaim.core.model import Event, Outcome, Phase, Policy
from jupyter_gpu_reclaim.node import NodeBoard
from jupyter_gpu_reclaim.reconciler import Reconciler
from jupyter_gpu_reclaim.sim.board import Board, MiB

NEED = 40 * MiB  # of each kernel, on a GPU of 100 MiB
POLICY = Policy(
    idle_after=timedelta(hours=1),
    pressure_idle_after=timedelta(0),
    cooldown=timedelta(0),
    min_reclaim_bytes=0,
    host_reserve_bytes=0,
    max_moving_share=0,  # cells take no time here, so nearly all of it is spent moving
)


class SharedWorld(World):
    """A world whose only GPU is the board's, filled by whoever is on it. Kernels are rows from `first_pid` on."""

    def __init__(self, board: Board, first_pid: int) -> None:
        (gpu,) = board.gpus()
        super().__init__(**{gpu.uuid: gpu.total_bytes})
        self.gpu, self._board, self._first_pid = gpu.uuid, board, first_pid
        self.kernels_port = SharedKernels(self)
        self.overfull: list[str] = []  # kernels that were let into a full GPU
        self.failures_seen = 0

    def used(self, gpu: str) -> int:
        """See `World`."""
        return self._board.gpus()[0].used_bytes

    def add(self, kernel_id: str) -> FakeKernel:
        """A kernel that was reclaimed, since nobody made room for it yet."""
        kernel = self.start(kernel_id, **{self.gpu: NEED})
        kernel.phase, kernel.pid = Phase.RECLAIMED, self._first_pid + len(self.kernels)
        return kernel

    def lie(self, kernel: FakeKernel) -> None:
        """Put the kernel's row where its phase says."""
        self._board.remove_process(kernel.pid)
        if kernel.on_gpu:
            self._board.add_process(kernel.pid, kernel.footprint[self.gpu])
        if self.used(self.gpu) > self.gpu_bytes[self.gpu]:
            self.overfull.append(kernel.kernel_id)

    def die(self, kernel_id: str) -> None:
        """The kernel's process ends, and its memory is free."""
        self._board.remove_process(self.kernels.pop(kernel_id).pid)


class SharedKernels(FakeKernels):
    """Moves take a while, and their bytes are on the board when they have moved."""

    def __init__(self, world: SharedWorld) -> None:
        super().__init__(world)
        self._shared = world

    async def suspend(self, kernel_id: str, host_bytes: int, spill_bytes: int = 0) -> Outcome:
        """See `ports.KernelControl`."""
        outcome = await super().suspend(kernel_id, host_bytes, spill_bytes)
        return await self._moved(kernel_id, outcome)

    async def resume(self, kernel_id: str) -> Outcome:
        """See `ports.KernelControl`."""
        outcome = await super().resume(kernel_id)
        return await self._moved(kernel_id, outcome)

    async def _moved(self, kernel_id: str, outcome: Outcome) -> Outcome:
        await asyncio.sleep(0.003)  # between the look and the allocation there is always some time
        if kernel_id in self._shared.kernels:
            self._shared.lie(self._shared.kernels[kernel_id])
        return outcome


class WallClock:
    """`ports.Clock`: the machine's."""

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(UTC)


def serve(channel: Any, node_dir: Path, board_path: Path, number: int) -> None:
    """One server with two kernels, at work until killed. Told "report", it says what came of the last cells.

    Told "lose a kernel", one of its kernels dies and another is started.
    """
    with Board.attach(board_path) as board:
        asyncio.run(_serve(channel, NodeBoard(node_dir), SharedWorld(board, 1000 * number)))


async def _serve(channel: Any, node: NodeBoard, world: SharedWorld) -> None:
    world.clock = WallClock()
    chance = random.Random(world.gpu + str(id(world)))
    one = Reconciler(
        world.observer, world.kernels_port, world.log, world.clock, POLICY, tick_seconds=0.05, board=node
    )
    running = asyncio.create_task(one.run())
    names = iter(range(1_000_000))
    for _ in range(2):
        world.add(f"kernel-{next(names)}")
    order = asyncio.create_task(asyncio.to_thread(channel.recv))
    channel.send("here")
    while not running.done():
        await run_cells(world, one, chance, rounds=1)
        if not order.done():
            continue
        told, order = order.result(), asyncio.create_task(asyncio.to_thread(channel.recv))
        if told == "lose a kernel":
            world.die(chance.choice(sorted(world.kernels)))
            world.add(f"kernel-{next(names)}")
        else:
            await run_cells(world, one, chance, rounds=2)
            channel.send((list(one.status().problems) + lost(world), races(world)))


async def run_cells(world: SharedWorld, one: Reconciler, chance: random.Random, rounds: int) -> None:
    """Every kernel runs so many cells, each waiting for its bytes first."""

    async def run(kernel: FakeKernel) -> None:
        for _ in range(rounds):
            await asyncio.sleep(chance.uniform(0, 0.01))
            world.run_cell(kernel.kernel_id)
            one.wake()
            while kernel.running_since is None:
                await asyncio.sleep(0.002)
            world.end_cell(kernel.kernel_id)

    await asyncio.gather(*(run(kernel) for kernel in tuple(world.kernels.values())))


def lost(world: SharedWorld) -> list[str]:
    """What must never happen in a server's life."""
    wrong = [kernel for kernel in world.kernels.values() if kernel.data != f"tensors of {kernel.kernel_id}"]
    ends = {Event.RECLAIM_FAILED, Event.LOST, Event.WAIT_ENDED}
    rows = [f"{row.event}: {row.detail}" for row in world.log.rows if row.event in ends]
    return [f"{kernel.kernel_id} has other data" for kernel in wrong] + rows


def races(world: SharedWorld) -> list[str]:
    """Who was let into a full GPU, or found no room where he had been admitted, since this was last asked."""
    failed = [row.kernel_id for row in world.log.rows if row.event is Event.RESTORE_FAILED]
    new, world.overfull = world.overfull + failed[world.failures_seen :], []
    world.failures_seen = len(failed)
    return new
