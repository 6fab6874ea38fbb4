"""`jupyter gpu-reclaim doctor --exercise`: what it measures is measured from outside, and it notices what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from jupyter_gpu_reclaim import cli
from jupyter_gpu_reclaim.doctor import exercise, round_trip
from jupyter_gpu_reclaim.sim.board import FLIP_BIT, Board, MiB
from jupyter_gpu_reclaim.sim.environment import environment, preload_nvml


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """A GPU with room for one small trip, whose contexts take 16 MiB; NVML in this process shows it."""
    with Board.create(tmp_path / "board", [("GPU 400 MiB", 400 * MiB)], context_bytes=16 * MiB) as board:
        preload_nvml(board.path)
        yield board
        preload_nvml(None)


def tried(board: Board) -> tuple[exercise.Report, list[str]]:
    """The report and the lines shown."""
    lines: list[str] = []
    return exercise.try_out(lines.append, sys.executable, environment(board.path), True), lines


def test_every_figure_comes_from_outside(board: Board) -> None:
    """NVML, not torch, says that while the bytes were away only the context was left, and that they came back."""
    report, lines = tried(board)
    assert report.right
    assert [trip["nbytes"] for trip in report.trips[::2]] == report.rates["sizes"]
    assert [trip["host_buffer"] for trip in report.trips] == ["fresh", "kept"] * len(report.rates["sizes"])
    context = report.gpu["nvml_bytes"]
    assert context == 16 * MiB
    for trip in report.trips:
        assert trip["nvml_bytes"] >= context + trip["nbytes"]
        assert trip["offloaded"]["nvml_bytes"] == context
        assert trip["offloaded"]["moved_bytes"] >= trip["nbytes"] - 3
        assert trip["restored"]["nvml_bytes"] >= context + trip["nbytes"]
        assert trip["restored"]["wrong_bytes"] == 0
    assert "SIMULATED" in lines[0]
    assert lines[-1] == "Every bit came back."
    assert sum("16.0 MiB the driver's context" in line for line in lines) == len(report.trips)
    with pytest.raises(pynvml.NVMLError_Uninitialized):  # nothing is left open
        pynvml.nvmlDeviceGetCount()


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`doctor --exercise --simulated --json FILE` exits 0 and leaves every figure in FILE, labelled as simulated."""
    file = tmp_path / "figures.json"
    assert cli.main(["doctor", "--exercise", "--simulated", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["simulated"] is True
    assert figures["right"] is True
    assert max(trip["nbytes"] for trip in figures["trips"]) > 1024 * MiB
    assert "Every bit came back." in capsys.readouterr().out


@pytest.mark.parametrize("skip", [250, 350])
def test_a_wrong_bit_is_noticed(board: Board, skip: int) -> None:
    """A device that flips one bit in a copy is never called right."""
    board.set_fault("copy", FLIP_BIT, skip=skip, count=100)
    report, lines = tried(board)
    assert not report.right
    assert lines[-1] != "Every bit came back."


def test_a_python_without_torch_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be tried it exits 2 and says in one line why and what to name instead."""
    assert cli.main(["doctor", "--exercise", "--python", str(tmp_path / "python")]) == 2
    assert "--python" in capsys.readouterr().out


def test_sizes_grow_to_the_share_of_what_is_free() -> None:
    """64 MiB and fourfold up to 80 % of the free memory, or to what the host can hold; nothing where neither is."""
    gib = 1 << 30
    assert round_trip.sizes(10 * gib, 100 * gib) == [64 * MiB, 256 * MiB, gib, 4 * gib, 8 * gib]
    assert round_trip.sizes(10 * gib, 100 * MiB) == [64 * MiB, 100 * MiB]
    assert round_trip.sizes(10 * gib, 0) == []


@pytest.mark.gpu
def test_on_this_machines_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """On a real GPU every bit comes back, up to 80 % of what is free."""
    assert cli.main(["doctor", "--exercise"]) == 0
    assert "Every bit came back." in capsys.readouterr().out
