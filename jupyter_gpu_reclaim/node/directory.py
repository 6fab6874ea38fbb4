"""The directory that the servers of one machine share. Whoever else writes there is not trusted.

It is opened anew for every use: it may be cleaned away, made or mounted at any time. Nothing in it is followed, waited
for, or believed because of its name.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USUAL = (Path("/run/jupyter_gpu_reclaim"), Path("/tmp/jupyter_gpu_reclaim"))
"""Made by the machine's administrator; made by the server that comes first."""
ANSWER_SECONDS = 5.0
"""A directory that has not answered for so long (a dead mount, say) is done without."""
OPEN_TO_ALL = 0o1777  # everybody makes files, and removes no others than their own


class Unusable(Exception):
    """The directory cannot be used; the message is the middle of a sentence: "PATH does not exist"."""


class NodeDirectory:
    """One path. Without one it is the first of `usual` where there is such, else the second, made when needed."""

    def __init__(
        self, path: Path | None, usual: tuple[Path, Path] = USUAL, patience: float = ANSWER_SECONDS
    ) -> None:
        self._path = path
        self._administrators, self._of_all = usual
        self._patience = patience
        self._uses: dict[object, float] = {}  # that have not ended, and when they began

    @property
    def path(self) -> Path:
        """Where it is at present."""
        if self._path is not None:
            return self._path
        return self._administrators if self._administrators.exists() else self._of_all

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the directory, closed afterwards. Raises `Unusable`, for an OSError in the block, too.

        So it does while an earlier use hangs: however long a dead mount does not answer, few threads wait for it.
        """
        now = time.monotonic()
        waited = now - min(tuple(self._uses.values()), default=now)
        if waited > self._patience:
            raise Unusable(f"{self._path or self._of_all} has not answered for {waited:.0f} s")
        use = object()
        self._uses[use] = now
        try:
            with self._opened(self.path) as directory:
                yield directory
        finally:
            del self._uses[use]

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        try:
            directory = self._open(path)
        except FileNotFoundError as error:
            raise Unusable(f"{path} does not exist") from error
        except NotADirectoryError as error:
            raise Unusable(f"{path} is no directory (a link is not followed)") from error
        except OSError as error:
            raise Unusable(f"{path} cannot be opened ({error.strerror})") from error
        try:
            yield directory
        except OSError as error:
            place = path / error.filename if isinstance(error.filename, str) else path
            raise Unusable(f"{place} cannot be used ({error.strerror or error})") from error
        finally:
            os.close(directory)

    def _open(self, path: Path) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            directory = os.open(path, flags)
        except FileNotFoundError:
            if self._path is not None:  # a path that was configured: in a container a mount may be missing
                raise
            _make(path)
            directory = os.open(path, flags)
        mode = os.fstat(directory).st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
            os.close(directory)
            raise Unusable(
                f"{path} has no sticky bit, so anybody could remove others' files (chmod +t {path})"
            )
        return directory


def _make(path: Path) -> None:
    """Make the directory, in no moment with other rights than it is to have."""
    fresh = tempfile.mkdtemp(prefix=f"{path.name}-", dir=path.parent)
    try:
        os.chmod(fresh, OPEN_TO_ALL)
        os.rename(fresh, path)
    except OSError as error:
        os.rmdir(fresh)
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EPERM, errno.EACCES):
            raise
        # Somebody else was first; whether theirs will do is seen when it is opened.


def open_plain(name: str, directory: int) -> int:
    """A file of whomever's, opened to read: a regular file with this one name, or an OSError; it never waits.

    Links are not followed, and hard links not taken, since the file may belong to something else; devices are not even
    opened. O_NONBLOCK is for what has become a FIFO meanwhile, and for a file its owner holds a lease on.
    """
    _check_plain(os.stat(name, dir_fd=directory, follow_symlinks=False), name)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    opened = os.open(name, flags, dir_fd=directory)
    try:
        _check_plain(os.fstat(opened), name)
    except OSError:
        os.close(opened)
        raise
    return opened


def _check_plain(found: os.stat_result, name: str) -> None:
    if found.st_nlink == 0:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise OSError(errno.EINVAL, "not a plain file", name)
