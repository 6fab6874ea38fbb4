"""`NodeBoard` in a directory: the contract, and what makes it work alone."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from contract.pressure_board_contract import NOON, BoardContract

from jupyter_gpu_reclaim.node import NodeBoard
from jupyter_gpu_reclaim.node.board import FRESH_SECONDS, LEFT_ALONE_SECONDS
from jupyter_gpu_reclaim.node.directory import NodeDirectory, Unusable
from jupyter_gpu_reclaim.node.locks import lock_name

NewBoard = Callable[[], NodeBoard]


class TestNodeBoard(BoardContract):
    """Several boards of one process are as good as several servers: locks belong to open files."""


def notices(node_dir: Path) -> list[Path]:
    """The files with notices that lie there."""
    return sorted(node_dir.glob("waiting-*"))


def test_a_notice_that_is_not_renewed_ends_to_count(new_board: NewBoard, node_dir: Path) -> None:
    """A server that hangs presses on the others for a bounded time only; when it looks again it counts again."""
    hanging, other = new_board(), new_board()
    hanging.publish({"GPU-1": 10}, NOON)
    (notice,) = notices(node_dir)
    for ago in (FRESH_SECONDS + 1, -FRESH_SECONDS - 5):
        os.utime(notice, (0, time.time() - ago))
        assert other.waiting_elsewhere() == {}
    hanging.waiting_elsewhere()
    assert other.waiting_elsewhere() == {"GPU-1": 10}


def test_a_notice_that_somebody_removed_is_written_again(new_board: NewBoard, node_dir: Path) -> None:
    """Whether the file or all of the directory was cleaned away, the next publication puts the notice there again."""
    a, b = new_board(), new_board()
    a.publish({"GPU-1": 10}, NOON)
    notices(node_dir)[0].unlink()
    a.publish({"GPU-1": 10}, NOON)
    assert b.waiting_elsewhere() == {"GPU-1": 10}
    notices(node_dir)[0].unlink()
    node_dir.rmdir()
    a.publish({"GPU-1": 10}, NOON)
    assert "does not exist" in a.problem
    node_dir.mkdir()
    a.publish({"GPU-1": 10}, NOON)
    assert (a.problem, b.waiting_elsewhere()) == (None, {"GPU-1": 10})


async def test_files_can_be_read_by_all_and_written_by_nobody_else(node_dir: Path) -> None:
    """Whatever the server's umask, others can read its notice and open its locks, and cannot write either."""
    before = os.umask(0o077)
    try:
        board = NodeBoard(node_dir)
        board.publish({"GPU-1": 10}, NOON)
        async with board.claim(["GPU-1"]):
            modes = {path.name[:4]: stat.S_IMODE(path.stat().st_mode) for path in node_dir.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"wait": 0o644, "gpu-": 0o444}


async def test_nothing_stays_behind(new_board: NewBoard, node_dir: Path) -> None:
    """When nobody waits and nobody restores, the directory is empty, however many did at once before."""
    boards = [new_board() for _ in range(3)]

    async def restore(board: NodeBoard) -> None:
        for _ in range(10):
            board.publish({"GPU-1": 1}, NOON)
            async with board.claim(["GPU-1", "GPU-2"]):
                board.publish({}, None)

    await asyncio.gather(*(restore(board) for board in boards))
    assert list(node_dir.iterdir()) == []


# -- alone ------------------------------------------------------------------------------------------------------------


def absent(path: Path) -> None:
    """There is nothing."""


def without_sticky_bit(path: Path) -> None:
    """Anybody could remove anybody's files."""
    path.mkdir()
    path.chmod(0o777)


def a_link(path: Path) -> None:
    """A link to a directory that would do."""
    target = path.with_name("target")
    target.mkdir()
    path.symlink_to(target)


def a_file(path: Path) -> None:
    """A file stands there."""
    path.touch()


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (absent, "does not exist"),
        (without_sticky_bit, "no sticky bit"),
        (a_link, "is no directory"),
        (a_file, "is no directory"),
    ],
)
async def test_without_a_directory_it_works_alone_and_says_so_once(
    made: Callable[[Path], None], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is seen, nothing is raised, claims are had; the problem names path, cause and setting, the log once."""
    path = tmp_path / "place"
    made(path)
    board = NodeBoard(path)
    with caplog.at_level(logging.INFO, logger="jupyter_gpu_reclaim.node"):
        for _ in range(3):
            board.publish({"GPU-1": 10}, NOON)
            assert board.waiting_elsewhere() == {}
        assert len(caplog.messages) == 1
        async with board.claim(["GPU-1"]), board.claim(["GPU-2"]):
            pass
        async with board.claim(["GPU-1"]):
            pass
    assert str(path) in board.problem
    assert why in board.problem
    assert "node_dir" in board.problem
    assert len(caplog.messages) == 2  # alone; and that restores go ahead without a lock


async def test_when_the_directory_comes_all_is_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that is mounted or made later is used from the next look on, and the problem is gone."""
    path = tmp_path / "late"
    board, other = NodeBoard(path), NodeBoard(path)
    board.publish({"GPU-1": 10}, NOON)
    board.waiting_elsewhere()
    async with board.claim(["GPU-1"]):
        pass
    path.mkdir()
    board.publish({"GPU-1": 10}, NOON)
    assert board.waiting_elsewhere() == {}
    assert board.problem is None
    async with board.claim(["GPU-1"]):
        assert (path / lock_name("GPU-1")).exists()
    assert other.waiting_elsewhere() == {"GPU-1": 10}


def test_the_administrators_directory_comes_before_the_one_of_all(tmp_path: Path) -> None:
    """Without a setting the second place is made for everybody when needed; the first, where it exists, is taken."""
    administrators, of_all = tmp_path / "run", tmp_path / "tmp"
    directory = NodeDirectory(None, (administrators, of_all))
    with directory.opened() as opened:
        assert os.path.samestat(os.fstat(opened), of_all.stat())
    assert stat.S_IMODE(of_all.stat().st_mode) == 0o1777
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    administrators.mkdir()
    assert directory.path == administrators


def test_a_directory_that_hangs_is_done_without(node_dir: Path) -> None:
    """While a use of it has not come back for long, further ones are refused at once; then it is used again."""
    directory = NodeDirectory(node_dir, patience=0)
    with directory.opened(), pytest.raises(Unusable, match="has not answered"), directory.opened():
        pass
    with directory.opened():
        pass


# -- what somebody has put there --------------------------------------------------------------------------------------


async def test_a_lock_that_is_never_given_back(node_dir: Path) -> None:
    """After its patience a restore goes ahead without the lock and says so; the next do not wait; then it is well."""
    board, other = NodeBoard(node_dir, lock_patience=2), NodeBoard(node_dir, lock_patience=60)
    async with other.claim(["GPU-1"]):
        async with board.claim(["GPU-1"]):
            assert "has kept the lock of a GPU" in board.problem
        for _ in range(200):  # which would outlast the test's time, did each wait
            async with board.claim(["GPU-1"]):
                pass
        board.waiting_elsewhere()
        assert "has kept the lock of a GPU" in board.problem
    board.waiting_elsewhere()
    assert board.problem is None


def in_the_locks_place(what: str, lock: Path) -> None:
    """Puts something else where the lock's file would be."""
    other = lock.with_name("other")
    other.touch()
    if what == "a link":
        lock.symlink_to(other)
    elif what == "a hard link":
        lock.hardlink_to(other)
    elif what == "a FIFO":
        os.mkfifo(lock)
    else:
        lock.mkdir()


@pytest.mark.parametrize("what", ["a link", "a hard link", "a FIFO", "a directory"])
async def test_what_is_no_lock_is_not_locked(what: str, node_dir: Path) -> None:
    """Links, FIFOs and directories in a lock's place are left alone; the restore goes ahead and its name is told."""
    lock = node_dir / lock_name("GPU-1")
    in_the_locks_place(what, lock)
    board = NodeBoard(node_dir)
    with open(node_dir / "other") as other:
        async with board.claim(["GPU-1"]):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if we had taken what the link leads to
        assert str(lock) in board.problem
    async with board.claim(["GPU-2"]):
        assert (node_dir / lock_name("GPU-2")).is_file()


@pytest.mark.parametrize("gpu", ["../GPU-1", "GPU-1/../../x", ".", "a\0b", "MIG-1 2é"])
async def test_a_lock_stays_in_the_directory(gpu: str, node_dir: Path) -> None:
    """Whatever a GPU is called, its lock is a file in the directory."""
    board = NodeBoard(node_dir)
    async with board.claim([gpu]):
        (lock,) = node_dir.iterdir()
        assert lock.is_file()
    assert board.problem is None
    assert [path.name for path in node_dir.parent.iterdir()] == ["node"]


VALID = b'{"version": 1, "waiting_bytes": {"GPU-1": 10}, "since": null}'
GARBAGE = {
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "cut off": VALID[:-1],
    "nested": b"[" * 16_000,
    "a list": b"[1]",
    "null": b"null",
    "another version": VALID.replace(b"1,", b"2,", 1),
    "no map": b'{"version": 1, "waiting_bytes": [10]}',
    "nothing": b'{"version": 1}',
    "a fraction": VALID.replace(b"10", b"1e1"),
    "not a number": VALID.replace(b"10", b"NaN"),
    "true": VALID.replace(b"10", b"true"),
    "zero": VALID.replace(b"10", b"0"),
    "negative": VALID.replace(b"10", b"-10"),
    "text": VALID.replace(b"10", b'"10"'),
    "more than any GPU has": VALID.replace(b"10", str(2**44 + 1).encode()),
    "many digits": VALID.replace(b"10", b"9" * 5000),
    "a long name": VALID.replace(b"GPU-1", b"G" * 97),
    "many GPUs": b'{"version": 1, "waiting_bytes": {' + b", ".join(b'"%d": 1' % n for n in range(65)) + b"}}",
    "long": VALID + b" " * (16 << 10),
}


class Planted:
    """A file in the directory that looks like a living server's notice: fresh, and locked. A context manager."""

    def __init__(self, path: Path, text: bytes) -> None:
        path.write_bytes(text)
        path.chmod(0o644)
        self._opened = os.open(path, os.O_RDONLY)
        fcntl.flock(self._opened, fcntl.LOCK_EX)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        os.close(self._opened)


def test_a_notice_of_anybody_who_keeps_to_the_form_counts(new_board: NewBoard, node_dir: Path) -> None:
    """What the tests of garbage plant would count if its content were well-formed."""
    with Planted(node_dir / "waiting-x.json", VALID):
        assert new_board().waiting_elsewhere() == {"GPU-1": 10}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_ignored(name: str, new_board: NewBoard, node_dir: Path) -> None:
    """A notice that is out of form is as good as none, is left where it is, and the notices beside it count."""
    board, other = new_board(), new_board()
    other.publish({"GPU-2": 5}, NOON)
    with Planted(node_dir / "waiting-x.json", GARBAGE[name]):
        assert board.waiting_elsewhere() == {"GPU-2": 5}
        assert (node_dir / "waiting-x.json").exists()
    assert board.problem is None


@pytest.mark.parametrize(
    "what", ["a link", "a hard link", "written by others", "a FIFO", "a socket", "a directory"]
)
def test_what_is_no_plain_file_of_one_owner_is_ignored(
    what: str, new_board: NewBoard, node_dir: Path
) -> None:
    """Links are not followed, FIFOs not waited for, and a file that others may write proves nothing."""
    board, other = new_board(), new_board()
    other.publish({"GPU-2": 5}, NOON)
    strange = node_dir / "waiting-x.json"
    with Planted(node_dir / "elsewhere", VALID):
        if what == "a link":
            strange.symlink_to("elsewhere")
        elif what == "a hard link":
            strange.hardlink_to(node_dir / "elsewhere")
        elif what == "a FIFO":
            os.mkfifo(strange)
        elif what == "a socket":
            os.mknod(strange, stat.S_IFSOCK | 0o644)
        elif what == "a directory":
            strange.mkdir()
        else:
            (node_dir / "elsewhere").rename(strange)
            strange.chmod(0o666)
        assert board.waiting_elsewhere() == {"GPU-2": 5}
    assert board.problem is None


def test_a_full_directory_costs_a_bounded_look_and_is_told(new_board: NewBoard, node_dir: Path) -> None:
    """With more files than are looked at the look still ends, and the status says that some may be overlooked."""
    board = new_board()
    for number in range(1100):
        (node_dir / f"waiting-{number}.json").touch()
    board.waiting_elsewhere()
    assert "more than 1024 files" in board.problem
    for path in notices(node_dir):
        path.unlink()
    board.waiting_elsewhere()
    assert board.problem is None


def test_what_a_dead_server_left_is_taken_away(new_board: NewBoard, node_dir: Path) -> None:
    """A notice whose writer is gone is ignored at once, and removed when it cannot be one in the making any more."""
    board = new_board()
    left = [node_dir / "waiting-x.json", node_dir / "waiting-y.new"]
    for path in left:
        path.write_bytes(VALID)
        path.chmod(0o644)
    assert board.waiting_elsewhere() == {}
    assert notices(node_dir) == left
    for path in left:
        os.utime(path, (0, time.time() - LEFT_ALONE_SECONDS - 1))
    assert board.waiting_elsewhere() == {}
    assert notices(node_dir) == []
