"""Where the agents' socket lies: in Jupyter's runtime directory, or in a private one where that cannot hold it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

MAX_PATH_BYTES = 107  # Linux keeps 108 for the path, the last one for the NUL


class BoundSocket:
    """A unix socket, bound and 0600, not yet listening. `path` is what agents connect to; `remove()` takes it away.

    The name carries a hash of the host's name beside the process id: a runtime directory may lie on a file system that
    other hosts share, and their sockets look dead from here.
    """

    def __init__(self, runtime_dir: Path) -> None:
        name = f"gpu-reclaim-{_host()}-{os.getpid()}.sock"
        self._private_dir: Path | None = None
        self.path = runtime_dir / name
        try:
            if len(os.fsencode(self.path)) > MAX_PATH_BYTES:
                raise OSError(errno.ENAMETOOLONG, "too long for a unix socket", str(self.path))
            runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_stale(runtime_dir)
            self.socket = _bind(self.path)
        except OSError:  # too long, or a file system without sockets
            self._private_dir = Path(tempfile.mkdtemp(prefix="gpu-reclaim-", dir=_short_temp_dir(name)))
            self.path = self._private_dir / name
            self.socket = _bind(self.path)

    def remove(self) -> None:
        """Close the socket and take its file away. May be called twice."""
        self.socket.close()
        self.path.unlink(missing_ok=True)
        if self._private_dir is not None:
            shutil.rmtree(self._private_dir, ignore_errors=True)


def _bind(path: Path) -> socket.socket:
    """A bound socket that only this user can connect to; it refuses everybody until it listens."""
    path.unlink(missing_ok=True)  # this process's own name: a leftover of an earlier process with our id
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        path.chmod(0o600)
    except OSError:
        bound.close()
        raise
    return bound


def _remove_stale(runtime_dir: Path) -> None:
    """Remove the sockets of servers of this host that are no more: their process is gone and nobody answers."""
    for path in runtime_dir.glob(f"gpu-reclaim-{_host()}-*.sock"):
        pid = path.stem.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and not _answers(path):
            path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno != errno.ECONNREFUSED
        return True


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _short_temp_dir(name: str) -> str:
    """The user's temporary directory, or /tmp where even that is too long for a socket."""
    usual = tempfile.gettempdir()
    longest = os.path.join(usual, "gpu-reclaim-12345678", name)
    return usual if len(os.fsencode(longest)) <= MAX_PATH_BYTES else "/tmp"
