"""Whatever a process has done, and however often a move of its memory failed: its tensors equal an untouched twin's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from offload_histories import run
from simgpu import SimProcess, without_channel

from jupyter_gpu_reclaim.sim.board import Board, MiB

# What must really have happened in 100 histories, or the test proves little.
AT_LEAST = {
    "offloads": 50,
    "onloads": 20,
    "left something": 2,
    "cancelled": 10,
    "host full": 10,
    "copy failed": 5,
    "gpu full": 5,
    "copy back failed": 5,
    "ordered twice": 5,
    "backward": 50,
}


def run_histories(new_board: Callable[..., Board], count: int, seeds: tuple[int, int]) -> Counter[str]:
    """`count` histories, half in each of two processes."""
    processes = []
    for seed in seeds:
        board = new_board(("GPU A", 256 * MiB), ("GPU B", 256 * MiB))
        board.poison()
        processes.append(SimProcess(board, without_channel, run, (count // 2, seed)))
    total: Counter[str] = Counter()
    for process in processes:
        with process:
            total.update(process.receive(3600))
    print(dict(total))
    assert total["histories"] >= count
    for what, per_hundred in AT_LEAST.items():
        assert total[what] >= per_hundred * count / 100, f"{what}: {total[what]}"
    return total


@pytest.mark.timeout(900)
def test_two_thousand_histories(new_board: Callable[..., Board]) -> None:
    """In 2,000 random histories no bit is wrong and no byte is left on the GPU without its reason."""
    run_histories(new_board, 2000, (1, 2))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_histories(new_board: Callable[..., Board]) -> None:
    """The same for 50,000 histories that nobody has tried before: `python -m pytest -m long -s`."""
    run_histories(new_board, 50_000, (random.randrange(1 << 32), random.randrange(1 << 32)))
