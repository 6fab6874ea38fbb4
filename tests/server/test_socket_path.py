"""Where the agents' socket lies, and that sockets of dead servers do not pile up."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_gpu_reclaim.server.socket_path import MAX_PATH_BYTES, BoundSocket


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a short name: a socket's path may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="s-") as name:
        yield Path(name)


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def leave_socket(path: Path) -> None:
    """A socket file whose server is gone."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_it_lies_in_the_runtime_directory(folder: Path) -> None:
    """The socket is made where Jupyter keeps such files, readable by its user only, and taken away again."""
    bound = BoundSocket(folder / "runtime")
    assert bound.path.parent == folder / "runtime"
    assert stat.S_IMODE(bound.path.stat().st_mode) == 0o600
    bound.remove()
    bound.remove()
    assert list((folder / "runtime").iterdir()) == []


def test_a_long_path_moves_it_to_a_private_directory(folder: Path) -> None:
    """Where the runtime directory is too deep for a socket, a directory of our own takes it, closed to others."""
    bound = BoundSocket(folder / ("x" * 120))
    assert len(os.fsencode(bound.path)) <= MAX_PATH_BYTES
    assert stat.S_IMODE(bound.path.parent.stat().st_mode) == 0o700
    bound.remove()
    assert not bound.path.parent.exists()


def test_only_dead_servers_sockets_are_removed(folder: Path) -> None:
    """A new server clears away what dead ones of its host left, and nothing of the living, of other hosts or others."""
    own = BoundSocket(folder)
    prefix = own.path.name.rpartition("-")[0]
    own.remove()
    stale = folder / f"{prefix}-{dead_pid()}.sock"
    alive = folder / f"{prefix}-{os.getppid()}.sock"
    elsewhere = folder / f"gpu-reclaim-00000000-{dead_pid()}.sock"
    for path in (stale, alive, elsewhere):
        leave_socket(path)
    (folder / "kernel-1.json").touch()
    bound = BoundSocket(folder)
    assert {path.name for path in folder.iterdir()} == {
        alive.name,
        elsewhere.name,
        bound.path.name,
        "kernel-1.json",
    }
    bound.remove()
