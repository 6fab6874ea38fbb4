"""Where the agents' socket lies, and that sockets of dead servers do not pile up."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

from jupyter_gpu_reclaim.server.socket_path import MAX_PATH_BYTES, BoundSocket


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def leave_socket(path: Path) -> None:
    """A socket file whose server is gone."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_it_lies_in_the_runtime_directory(tmp_path: Path) -> None:
    """The socket is made where Jupyter keeps such files, readable by its user only, and taken away again."""
    bound = BoundSocket(tmp_path / "runtime")
    assert bound.path.parent == tmp_path / "runtime"
    assert stat.S_IMODE(bound.path.stat().st_mode) == 0o600
    bound.remove()
    bound.remove()
    assert list((tmp_path / "runtime").iterdir()) == []


def test_a_long_path_moves_it_to_a_private_directory(tmp_path: Path) -> None:
    """Where the runtime directory is too deep for a socket, a directory of our own takes it, closed to others."""
    bound = BoundSocket(tmp_path / ("x" * 120))
    assert len(os.fsencode(bound.path)) <= MAX_PATH_BYTES
    assert stat.S_IMODE(bound.path.parent.stat().st_mode) == 0o700
    bound.remove()
    assert not bound.path.parent.exists()


def test_only_dead_servers_sockets_are_removed(tmp_path: Path) -> None:
    """A new server clears away what dead ones of its host left, and nothing of the living, of other hosts or others."""
    own = BoundSocket(tmp_path)
    prefix = own.path.name.rpartition("-")[0]
    own.remove()
    stale = tmp_path / f"{prefix}-{dead_pid()}.sock"
    alive = tmp_path / f"{prefix}-{os.getppid()}.sock"
    elsewhere = tmp_path / f"gpu-reclaim-00000000-{dead_pid()}.sock"
    for path in (stale, alive, elsewhere):
        leave_socket(path)
    (tmp_path / "kernel-1.json").touch()
    bound = BoundSocket(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        alive.name,
        elsewhere.name,
        bound.path.name,
        "kernel-1.json",
    }
    bound.remove()
