"""Several processes on one simulated GPU: they compete for its memory, and what dies gives its share back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from simgpu import ChildDied, SimProcess, run_on_simgpu

from jupyter_gpu_reclaim.sim.board import Board, MiB


def _hold(channel: Any, *mebibytes: int) -> None:
    """Holds so much on device 0, 1, …; then takes orders."""
    import torch

    held = [
        torch.full((n * MiB,), 7, dtype=torch.uint8, device=f"simgpu:{d}") for d, n in enumerate(mebibytes)
    ]
    channel.send([int(t[-1]) for t in held])
    while (order := channel.recv()) != "end":
        if order == "drop":
            held.clear()
            torch.accelerator.empty_cache()
        channel.send([torch.simgpu.mem_get_info(d)[0] for d in range(torch.simgpu.device_count())])


def _try(mebibytes: int) -> str:
    import torch

    try:
        return f"got {torch.ones(mebibytes * MiB, dtype=torch.uint8, device='simgpu')[0].item()}"
    except torch.OutOfMemoryError:
        return "out of memory"


def test_processes_compete(sim_board: Board) -> None:
    """What one process holds the other cannot get, until the first gives its cache back; its context stays."""
    with SimProcess(sim_board, _hold, 150) as holder:
        assert holder.receive() == [7]
        assert sim_board.used_bytes(holder.pid) == (16 + 150) * MiB
        assert sim_board.gpus()[0].free_bytes == 90 * MiB
        assert run_on_simgpu(sim_board, _try, 80) == "out of memory"  # 80 + its own context are more than 90
        assert run_on_simgpu(sim_board, _try, 70) == "got 1"
        holder.send("drop")
        assert holder.receive() == [240 * MiB]
        assert sim_board.used_bytes(holder.pid) == 16 * MiB
        assert run_on_simgpu(sim_board, _try, 200) == "got 1"


def test_a_killed_process_gives_its_share_back(sim_board: Board) -> None:
    """After kill -9 the dead process's bytes, context included, are free for the next one."""
    with SimProcess(sim_board, _hold, 150) as holder:
        holder.receive()
        holder.kill()
        assert sim_board.processes() == []
        assert run_on_simgpu(sim_board, _try, 220) == "got 1"


def _take_pieces(channel: Any) -> None:
    """Allocates and frees for ever, so that a kill comes somewhere in the middle."""
    import torch

    channel.send("begun")
    while True:
        torch.empty(4 * MiB, dtype=torch.uint8, device="simgpu")
        torch.accelerator.empty_cache()


def test_a_kill_at_any_moment_leaves_the_board_usable(sim_board: Board) -> None:
    """Processes killed in the middle of allocating leave no lock held and no byte taken."""
    for _ in range(5):
        with SimProcess(sim_board, _take_pieces) as worker:
            worker.receive()
            while not sim_board.used_bytes(worker.pid):
                pass
            worker.kill()
        assert sim_board.gpus()[0].used_bytes == 0
    assert run_on_simgpu(sim_board, _try, 238) == "got 1"


def test_a_reused_pid_is_another_process(sim_board: Board) -> None:
    """A row counts only while its process, by start time, lives: another process under its pid does not keep it."""
    with SimProcess(sim_board, _hold, 100) as holder:
        holder.receive()
        with sim_board._locked() as shared:
            shared.process[0].born += 1  # as if the pid had come to a younger process
        assert sim_board.processes() == []
        assert run_on_simgpu(sim_board, _try, 220) == "got 1"


def test_devices_are_accounted_separately(new_board: Callable[..., Board]) -> None:
    """A process pays its context on each device it touches, and its bytes stand on the device they lie on."""
    board = new_board(("GPU A", 128 * MiB), ("GPU B", 128 * MiB), context_bytes=8 * MiB)
    with SimProcess(board, _hold, 30, 60) as both, SimProcess(board, _hold, 20) as one:
        assert both.receive() == [7, 7]
        assert one.receive() == [7]
        held = {(row.pid, row.device): row.used_bytes for row in board.processes()}
        assert held == {(both.pid, 0): 38 * MiB, (both.pid, 1): 68 * MiB, (one.pid, 0): 28 * MiB}
        one.send("free?")
        assert one.receive() == [(128 - 38 - 28) * MiB, (128 - 68) * MiB]


def test_no_room_for_a_context(sim_board: Board) -> None:
    """Where not even the context fits, the first allocation is out of memory and no row is left."""
    sim_board.set_other_used(245 * MiB)
    assert run_on_simgpu(sim_board, _try, 1) == "out of memory"
    assert sim_board.processes() == []
    sim_board.set_other_used(0)
    assert run_on_simgpu(sim_board, _try, 1) == "got 1"


def _die() -> None:
    os.abort()


def test_a_death_is_told_apart(sim_board: Board) -> None:
    """A process that dies of a signal is reported as such, with the signal."""
    with pytest.raises(ChildDied, match="SIGABRT") as died:
        run_on_simgpu(sim_board, _die)
    assert died.value.signal == signal.SIGABRT
