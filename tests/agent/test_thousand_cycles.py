"""A kernel that is reclaimed for weeks: nothing grows, nothing is lost. One that is killed leaves nothing behind."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from offload_process import Bench
from simgpu import ChildDied, SimProcess, run_on_simgpu

from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import BOARD_VARIABLE

CYCLES, SETTLED = 1000, 100


def resident_bytes() -> int:
    """Host memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def shared_memory() -> set[str]:
    """What lies in shared memory, but for databases of tests beside this one."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("PostgreSQL.")}


def measures(bench: Bench) -> dict[str, int]:
    """What must not grow, with the host buffer given back."""
    bench.mechanism.release_host_buffer()
    gc.collect()
    return {
        "host_bytes": resident_bytes(),
        "allocated_bytes": bench.allocated(),
        "reserved_bytes": bench.reserved(),
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
    }


def thousand_cycles() -> dict[str, Any]:
    """A model in training is away between all of its steps, and beside it a graph that is half-way through."""
    import torch

    bench = Bench(os.environ[BOARD_VARIABLE])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.ReLU(), torch.nn.Linear(300, 1))
    model.to("simgpu")
    optimizer = torch.optim.Adam(model.parameters())
    values = torch.arange(500_000, dtype=torch.int32, device="simgpu").mul_(2_654_435)
    expected = hashlib.sha256(values.cpu().numpy().tobytes()).hexdigest()
    seen, losses, left = {}, [], 0
    for cycle in range(1, CYCLES + 1):
        loss = model(torch.ones(8, 300, device="simgpu")).pow(2).mean()
        left += sum(bench.cycle().unmovable.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        del loss
        if cycle in (SETTLED, CYCLES):
            optimizer.zero_grad()
            seen[cycle] = measures(bench)
    equal = hashlib.sha256(values.cpu().numpy().tobytes()).hexdigest() == expected
    return {"seen": seen, "equal": equal, "left": left, "learned": losses[-1] < losses[0]}


@pytest.mark.timeout(600)
def test_a_thousand_cycles_grow_nothing(sim_board: Board) -> None:
    """From the 100th cycle to the 1,000th: device memory, threads, files and objects are equal, host memory is flat."""
    with SimProcess(sim_board, _with_channel) as process:
        facts = process.receive(500)
    assert facts["equal"]
    assert facts["learned"]
    assert facts["left"] == 0
    settled, last = facts["seen"][SETTLED], facts["seen"][CYCLES]
    print(settled, last)
    for same in ("allocated_bytes", "reserved_bytes", "threads", "files"):
        assert last[same] == settled[same], same
    assert last["objects"] - settled["objects"] < 50
    assert last["host_bytes"] - settled["host_bytes"] < 8 * MiB


def _with_channel(channel: Any) -> dict[str, Any]:
    return thousand_cycles()


# ---- killed


def move_until_killed(channel: Any, moves: int) -> None:
    """Says where it is at each progress of an endless change between device and host."""
    import torch

    bench = Bench(os.environ[BOARD_VARIABLE])
    kept = [torch.ones(1 << 20, device="simgpu") for _ in range(10)]
    steps = 0

    def step(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        channel.send(steps)
        if steps > moves:
            channel.recv()  # until the test has killed us: in the middle of a move

    gc.disable()
    while kept:
        bench._worker.submit(bench.mechanism.offload, progress=step).result()
        bench._worker.submit(bench.mechanism.onload, progress=step).result()


def take_all() -> int:
    """Bytes that a newcomer gets in one piece on the GPU that is free now."""
    import torch

    torch.ones(1, device="simgpu")
    free, _ = torch.simgpu.mem_get_info()
    tensor = torch.empty(free - 4 * MiB, dtype=torch.uint8, device="simgpu")
    return tensor.numel()


@pytest.mark.parametrize("moves", range(8))
def test_a_killed_process_leaves_nothing_behind(
    new_board: Callable[..., Board], tmp_path: Path, moves: int
) -> None:
    """Killed in the middle of an offload or onload: no file of its own stays, and all of the GPU is others' to have."""
    board = new_board(("GPU 256 MB", 256 * MiB))
    shared = shared_memory()
    folder = set(os.listdir(tmp_path))
    with SimProcess(board, move_until_killed, moves) as process:
        while process.receive() <= moves:
            pass
        process.kill()
        with pytest.raises(ChildDied):
            process.receive()
    assert shared_memory() <= shared
    assert set(os.listdir(tmp_path)) == folder
    assert run_on_simgpu(board, take_all) >= 230 * MiB
