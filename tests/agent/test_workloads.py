"""Notebooks as people write them for CUDA, offloaded and brought back between every two cells, beside their twins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from simgpu import run_on_simgpu
from workload_cells import NOTEBOOKS, run

from jupyter_gpu_reclaim.sim.board import Board, MiB

# Each notebook, and the reasons for which something in it may stay on the GPU.
STAYS: dict[str, set[str]] = {
    "accumulation": set(),
    "cnn": set(),
    "compiled": set(),
    "data_loading": set(),
    "finetuning": set(),
    "gan": set(),
    "linear_algebra": set(),
    "mixed_precision": set(),
    "recurrent": set(),
    "reinforcement": set(),
    "transformer": set(),
    "vae": set(),
}


@pytest.fixture
def board(new_board: Callable[..., Board]) -> Board:
    """A GPU whose freed memory is poisoned, and closed to everything but the device's operators."""
    board = new_board(("GPU 1 GiB", 1024 * MiB))
    board.poison()
    board.protect()
    return board


@pytest.mark.parametrize("name", STAYS)
def test_a_notebook_equals_its_uninterrupted_twin(board: Board, name: str) -> None:
    """After every cell all that can be reached from its names equals the twin's: bits, sharing, versions, output.

    Between every two cells everything leaves the GPU (or stays with the reason expected), and nothing is unexplained.
    """
    expected, again = (run_on_simgpu(board, run, name, False) for _ in range(2))
    assert again == expected, "this notebook does not repeat itself, so comparing with it would prove nothing"
    facts = run_on_simgpu(board, run, name, True)
    assert facts["succeeded"]
    assert facts["states"] == expected["states"]
    assert facts["printed"] == expected["printed"]
    assert facts["states"][-1][1] > 5
    assert len(facts["cycles"]) >= facts["cells"] - 3
    for moved_bytes, unmovable, unexplained_bytes, reserved_bytes in facts["cycles"]:
        assert moved_bytes > 0
        assert set(unmovable) <= STAYS[name]
        assert unexplained_bytes == 0
        assert unmovable or reserved_bytes == 0


def test_every_notebook_is_in_the_table() -> None:
    """No notebook in the folder goes untried."""
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.py")) == sorted(STAYS)
