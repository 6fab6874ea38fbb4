"""Three Jupyter servers of three Unix users on one simulated GPU: they make room for each other and lose nothing."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from user_server import Desk, Machine, become

from jupyter_gpu_reclaim.node import NodeBoard
from jupyter_gpu_reclaim.sim.board import Board, MiB

GPU_BYTES, CONTEXT_BYTES = 256 * MiB, 16 * MiB  # room for the data of two desks, and the contexts of all
SETTINGS = {
    "GpuReclaim.restore_timeout_seconds": 0,  # whoever is forgotten hangs, and the test with him
    "GpuReclaim.max_moving_share": 0,  # cells take no time here, so nearly all of it is spent moving
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """The three of them, of which two have their data on the GPU; one server at a time is enough for that."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to run servers as three other users")
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (of util-linux), to run servers as three other users")
    if become(20001) is None:
        pytest.skip("needs an interpreter that other users can read, or CAP_DAC_READ_SEARCH to let them")
    folder = Path(tempfile.mkdtemp(prefix="gpu-reclaim-test-"))  # pytest's own are closed to other users
    folder.chmod(0o755)
    with Board.create(
        folder / "board", [("GPU", GPU_BYTES)], context_bytes=CONTEXT_BYTES, poison=True
    ) as board:
        board.path.chmod(0o666)
        with Machine(folder, board, SETTINGS) as machine:
            machine.run(sit_down(machine))
            yield machine
    shutil.rmtree(folder)


async def sit_down(machine: Machine) -> None:
    """Everybody puts data on the GPU, the first making room for the last."""
    for number, desk in enumerate(machine.desks):
        await desk.fill()
        if number == 0:
            await desk.be_reclaimed()


async def all_is_well(machine: Machine) -> None:
    """Nobody waits, no server has a problem, no lock is held."""
    look = NodeBoard(machine.node_dir, lock_patience=0)
    assert await asyncio.to_thread(look.waiting_elsewhere) == {}
    async with look.claim([gpu.uuid for gpu in machine.board.gpus()]):
        assert look.problem is None
    for desk in machine.desks:
        assert (await desk.server.jupyter.status())["problems"] == []


def test_each_waiting_cell_finds_room_in_other_users_idle_notebooks(machine: Machine) -> None:
    """Three notebooks, room for two: whoever's cell needs room gets it from another user's idle one, data unchanged."""

    async def story() -> None:
        for _ in range(2):
            for desk in machine.desks:
                await desk.work()
        for _ in range(5):  # all at once
            await asyncio.gather(*(desk.work() for desk in machine.desks))
        for desk in machine.desks:
            log = await desk.log()
            assert (
                "reclaim_started",
                "admission",
            ) in log  # it gave way, and that could only be to another user
            assert "restore_done" in {event for event, _ in log}
            assert not {"reclaim_failed", "restore_failed", "lost", "wait_ended"} & {
                event for event, _ in log
            }
        await all_is_well(machine)

    machine.run(story())


# -- kill -9 -----------------------------------------------------------------------------------------------------------


async def kill_server(machine: Machine, victim: Desk) -> None:
    """The server dies, and its kernels with it; the user starts another."""
    await victim.server.jupyter.kill()


async def kill_kernel(machine: Machine, victim: Desk) -> None:
    """The kernel dies."""
    row = await victim.server.until(lambda row: True, victim.notebook.kernel_id)
    os.kill(row["pid"], signal.SIGKILL)


async def wipe_directory(machine: Machine, victim: Desk) -> None:
    """Somebody cleans up: all notices and locks go, in whoever's hands they are."""
    for path in machine.node_dir.iterdir():
        path.unlink(missing_ok=True)


KILLS = [kill_server, kill_kernel, wipe_directory]


async def run_with_kill(machine: Machine, kill: object, chance: random.Random) -> None:
    """Everybody works at once; somewhere in between something dies; everybody else's work ends right, twice."""
    victim = chance.choice(machine.desks)
    work = {desk: asyncio.create_task(desk.work()) for desk in machine.desks}
    await asyncio.sleep(chance.uniform(0, 1.5))
    await kill(machine, victim)
    bereaved = kill is not wipe_directory
    others = [desk for desk in machine.desks if not (bereaved and desk is victim)]
    await asyncio.gather(*(work[desk] for desk in others))
    await asyncio.gather(*(desk.work() for desk in others))
    if bereaved:
        work[victim].cancel()  # its cell has nobody left to answer
        await asyncio.gather(work[victim], return_exceptions=True)
        victim.notebook.close()
        if kill is kill_server:
            await victim.server.jupyter.__aenter__()
        else:
            await victim.server.shut_down(victim.notebook)
        await victim.open()
        await others[0].be_reclaimed()
        await victim.fill()
    await asyncio.gather(*(desk.work() for desk in machine.desks))
    await all_is_well(machine)


@pytest.mark.parametrize("kill", KILLS)
def test_what_dies_takes_nobody_elses_work_with_it(machine: Machine, kill: object) -> None:
    """After kill -9 of a server or a kernel, or with the directory wiped: nothing lost, nobody stuck, no stale lock."""
    machine.run(run_with_kill(machine, kill, random.Random(7)))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(12))
def test_twelve_deaths_at_random(machine: Machine, number: int) -> None:
    """The same with what dies, whose it is, and when, by chance."""
    chance = random.Random(number)
    machine.run(run_with_kill(machine, chance.choice(KILLS), chance))
