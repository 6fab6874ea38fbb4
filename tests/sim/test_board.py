"""The board as Python sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_gpu_reclaim.sim.board import Board, GiB, MiB


def test_a_board_has_what_it_was_made_with(tmp_path: Path) -> None:
    """Names are labelled as simulated, UUIDs are told apart by sight, and an attached board shows the same."""
    with Board.create(
        tmp_path / "b", [("GPU 8 GB", 8 * GiB), ("Simulated H100", 80 * GiB)], reserved_bytes=MiB
    ):
        pass
    with Board.attach(tmp_path / "b") as attached:
        first, second = attached.gpus()
    assert (first.name, second.name) == ("Simulated GPU 8 GB", "Simulated H100")
    assert first.uuid.startswith("GPU-5150c0de-")
    assert first.uuid != second.uuid
    assert (second.total_bytes, second.used_bytes, second.free_bytes) == (80 * GiB, 0, 80 * GiB - MiB)
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600


def test_rows_and_strangers_count(tmp_path: Path) -> None:
    """Synthetic rows and strangers' bytes are used bytes of their GPU; removed, they are free again."""
    with Board.create(tmp_path / "b", [("A", GiB), ("B", GiB)]) as b:
        b.add_process(1234, 100 * MiB, device=1)
        b.set_other_used(50 * MiB, device=1)
        assert [gpu.used_bytes for gpu in b.gpus()] == [0, 150 * MiB]
        assert b.used_bytes(1234, device=1) == 100 * MiB
        assert [(row.pid, row.synthetic, row.last_busy_at) for row in b.processes()] == [(1234, True, None)]
        b.note_busy(1234, device=1, at=1000.5)
        assert b.processes()[0].last_busy_at == 1000.5
        b.remove_process(1234)
        assert [gpu.used_bytes for gpu in b.gpus()] == [0, 50 * MiB]


def test_what_is_no_board_is_refused(tmp_path: Path) -> None:
    """A missing file, a short one, one of another version and too many GPUs are refused with the path or the count."""
    with pytest.raises(FileNotFoundError, match="there is no board at"):
        Board.attach(tmp_path / "gone")
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(ValueError, match="short is no board"):
        Board.attach(tmp_path / "short")
    Board.create(tmp_path / "old").close()
    changed = bytearray((tmp_path / "old").read_bytes())
    changed[4] += 1
    (tmp_path / "old").write_bytes(changed)
    with pytest.raises(ValueError, match="old is no board of this version"):
        Board.attach(tmp_path / "old")
    with pytest.raises(ValueError, match="1 to 8 GPUs, not 9"):
        Board.create(tmp_path / "nine", [("A", GiB)] * 9)


def test_faults_and_rows_have_an_end(tmp_path: Path) -> None:
    """A full board says so instead of dropping what it was told."""
    with Board.create(tmp_path / "b") as b:
        for _ in range(32):
            b.set_fault("copy", 1)
        with pytest.raises(RuntimeError, match="clear_faults"):
            b.set_fault("copy", 1)
        b.clear_faults()
        b.set_fault("copy", 1)
        for pid in range(1, 129):
            b.add_process(pid, MiB)
        with pytest.raises(RuntimeError, match="128 rows"):
            b.add_process(200, MiB)


def test_a_board_lets_go_of_its_file(tmp_path: Path) -> None:
    """Neither a closed board nor a forgotten one keeps a file open."""
    before = len(os.listdir("/proc/self/fd"))
    Board.create(tmp_path / "closed").close()
    Board.create(tmp_path / "forgotten")
    assert len(os.listdir("/proc/self/fd")) == before
