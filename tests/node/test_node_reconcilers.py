"""Reconcilers of several servers, over fake kernels on one simulated GPU: how they give way, and how they die."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from light_server import NEED, POLICY, SharedWorld, serve
from user_process import UserProcess

from jupyter_gpu_reclaim.core.model import Event, Phase
from jupyter_gpu_reclaim.node import NodeBoard
from jupyter_gpu_reclaim.reconciler import Reconciler
from jupyter_gpu_reclaim.sim.board import Board, MiB


@pytest.fixture
def gpu_board(open_folder: Path, simgpu_server: None) -> Board:
    """One GPU with room for two kernels, which processes of every user can see and use."""
    with Board.create(open_folder / "board", [("GPU", 100 * MiB)]) as board:
        board.path.chmod(0o666)
        yield board


def server(world: SharedWorld, board: NodeBoard) -> Reconciler:
    """A server that ticks when it is told to."""
    return Reconciler(world.observer, world.kernels_port, world.log, world.clock, POLICY, board=board)


async def tick(one: Reconciler) -> None:
    """One tick, and whatever it began."""
    await one.tick()
    await one.quiet()


@pytest.mark.parametrize("makers", [1, 2])
async def test_idle_kernels_of_others_give_way_within_two_ticks(
    makers: int, gpu_board: Board, new_board: Callable[[], NodeBoard]
) -> None:
    """What waits on one server is taken from idle kernels of another in its next tick, or of two others together."""
    mine = SharedWorld(gpu_board, 1000)
    waiting = mine.add("waiting")
    waiting.footprint[mine.gpu] = makers * NEED
    mine.run_cell("waiting")
    me = server(mine, new_board())
    theirs = []
    for number in range(2):
        world = SharedWorld(gpu_board, 2000 + 1000 * number)
        kernel = world.add("idle")
        kernel.phase = Phase.RESIDENT
        world.lie(kernel)
        theirs.append((world, server(world, new_board())))
    await tick(me)
    for _, one in theirs[:makers]:
        await tick(one)
    assert [world.kernels["idle"].phase for world, _ in theirs[:makers]] == [Phase.RECLAIMED] * makers
    await tick(me)
    assert waiting.running_since is not None
    assert mine.log.events("waiting")[-2:] == [Event.RESTORE_STARTED, Event.RESTORE_DONE]
    await tick(me)
    assert new_board().waiting_elsewhere() == {}


async def test_a_server_that_works_alone_restores_and_says_so(gpu_board: Board, tmp_path: Path) -> None:
    """Without a directory kernels come back all the same, and the status has the problem, until there is one."""
    world = SharedWorld(gpu_board, 1000)
    world.add("waiting")
    world.run_cell("waiting")
    alone = server(world, NodeBoard(tmp_path / "node"))
    await tick(alone)
    assert world.kernels["waiting"].running_since is not None
    (problem,) = alone.status().problems
    assert f"{tmp_path / 'node'} does not exist" in problem
    (tmp_path / "node").mkdir()
    world.end_cell("waiting")
    await tick(alone)
    assert alone.status().problems == ()


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def play(node_dir: Path, board: Board, users: tuple[int, int, int], seed: int, runs: int) -> int:
    """Three users' servers at work; in each run something dies at a random moment, and everybody else goes on."""
    chance, node = random.Random(seed), NodeBoard(node_dir, lock_patience=0)
    (gpu,) = board.gpus()
    with ExitStack() as stack:

        def start(number: int) -> UserProcess:
            process = UserProcess(board, users[number], serve, node_dir, board.path, number + 1)
            stack.enter_context(process)
            assert process.receive() == "here"
            return process

        servers = [start(number) for number in range(3)]
        for run in range(runs):
            time.sleep(chance.uniform(0, 0.2))  # the moment, at whatever step everybody is then
            victim, what = chance.randrange(3), chance.choice(["server", "server", "kernel", "directory"])
            if what == "server":
                servers[victim].kill()
                bury(board, victim + 1)
            elif what == "kernel":
                servers[victim].send("lose a kernel")
            else:
                for path in node_dir.iterdir():
                    path.unlink(missing_ok=True)
            living = [server for server in servers if server.process.is_alive()]
            for server in living:
                server.send("report")
            for server in living:  # after two more cells of each kernel
                lost, races = server.receive()
                assert lost == [], f"run {run}: a {what} died"
                # A lock that is removed while it is held keeps nobody out: that may cost an attempt.
                assert races == [] or what == "directory", f"run {run}: a {what} died"
            if what == "server":
                servers[victim] = start(victim)
        for number, server in enumerate(servers):
            server.kill()
            bury(board, number + 1)
        assert node.waiting_elsewhere() == {}
        assert asyncio.run(is_free(node, gpu.uuid))
    return runs


def bury(board: Board, number: int) -> None:
    """As a driver does: what a dead server's kernels held is free. (They die with it, as Jupyter's do.)"""
    for row in board.processes():
        if row.pid // 1000 == number:
            board.remove_process(row.pid)


async def is_free(node: NodeBoard, gpu: str) -> bool:
    """Whether nobody has the GPU's lock."""
    async with node.claim([gpu]):
        return node.problem is None


def test_deaths_at_random_moments(users: tuple[int, int, int], node_dir: Path, gpu_board: Board) -> None:
    """Whatever dies when: what lives keeps its data, is let into no full GPU, and gets to run its cells."""
    assert play(node_dir, gpu_board, users, seed=7, runs=20) == 20


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_hundred_deaths_at_random_moments(
    users: tuple[int, int, int], node_dir: Path, gpu_board: Board
) -> None:
    """The same, two hundred times."""
    assert play(node_dir, gpu_board, users, seed=8, runs=200) == 200
