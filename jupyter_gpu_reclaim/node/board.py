"""`PressureBoard` in a directory: each server's notice of its waiting restores is a file that only it can write.

A notice counts while its writer lives, which holds a `flock` on it: unlike a process id, that is true across containers
and cannot be another process's. It also counts only while it is fresh, so that a server that hangs does not press on
the others for ever.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from pathlib import Path

from jupyter_gpu_reclaim.node.directory import NodeDirectory, Unusable, open_plain
from jupyter_gpu_reclaim.node.locks import GpuLocks
from jupyter_gpu_reclaim.node.notice import MAX_FILE_BYTES, Garbage, from_json, to_json

try:
    import fcntl
except ImportError:  # Windows: no server shares anything there, but the package must load all the same
    pass

logger = logging.getLogger(__name__)

LOCK_PATIENCE_SECONDS = 30.0
"""How long a restore waits for a GPU's lock; longer than most others take to come back, short for one who waits."""
FRESH_SECONDS = 120.0
"""A notice that was not renewed for so long does not count. Its server does with each tick."""
LEFT_ALONE_SECONDS = 10.0
"""A notice without a living writer is removed after so long, not while it may still be in the making."""
MAX_FILES = 1024  # more are not looked at, so that a directory somebody fills costs no more than milliseconds

_PREFIX, _SUFFIX, _UNFINISHED = "waiting-", ".json", ".new"
_READABLE_BY_ALL = 0o644
_CROWD = (
    "{} holds more than {} files, and no more are read: other servers' waiting restores may be overlooked."
)


class NodeBoard:
    """See `ports.PressureBoard`. `publish` and `waiting_elsewhere` belong into threads; any number may call at once."""

    def __init__(self, path: Path | None = None, *, lock_patience: float = LOCK_PATIENCE_SECONDS) -> None:
        self._directory = NodeDirectory(path)
        self._locks = GpuLocks(self._directory, self._note_lock, lock_patience)
        self._publishing = threading.Lock()
        self._name = _new_name()
        self._notice: int | None = None  # the descriptor that shows we live, while there is a notice of ours
        self._text = b""
        self._troubles: dict[str, str] = {}
        self._noting = threading.Lock()

    @property
    def problem(self) -> str | None:
        """See `ports.PressureBoard`."""
        with self._noting:
            return next(iter(self._troubles.values()), None)

    def claim(self, gpus: Collection[str]) -> AbstractAsyncContextManager[None]:
        """See `ports.PressureBoard`."""
        return self._locks.held(gpus)

    # -- the others -------------------------------------------------------------------------------------------------

    def waiting_elsewhere(self) -> Mapping[str, int]:
        """See `ports.PressureBoard`. Renews our own notice, and takes away what dead servers left, as far as it may."""
        waiting: Counter[str] = Counter()
        try:
            with self._directory.opened() as directory:
                self._renew()
                for notice in self._notices(directory):
                    waiting.update(notice)
            self._locks.look_again()
        except Unusable as error:
            self._note("directory", _alone(error))
            return {}
        self._note("directory", None)
        return dict(waiting)

    def _notices(self, directory: int) -> Iterator[dict[str, int]]:
        with os.scandir(directory) as names:
            for number, entry in enumerate(names):
                if number >= MAX_FILES:
                    self._note("crowd", _CROWD.format(self._directory.path, MAX_FILES))
                    return
                if entry.name.startswith(_PREFIX) and entry.name != self._name:
                    with suppress(OSError, Garbage):  # a stranger's rubbish, or gone meanwhile
                        yield _read(entry.name, directory)
        self._note("crowd", None)

    def _renew(self) -> None:
        with self._publishing:
            if self._notice is not None:
                os.utime(self._notice)

    # -- this server ------------------------------------------------------------------------------------------------

    def publish(self, waiting: Mapping[str, int], since: datetime | None) -> None:
        """See `ports.PressureBoard`."""
        with self._publishing:
            try:
                with self._directory.opened() as directory:
                    self._publish(to_json(waiting, since) if waiting else b"", directory)
            except Unusable as error:
                self._forget()
                self._note("publish", _alone(error))
            else:
                self._note("publish", None)

    def _publish(self, text: bytes, directory: int) -> None:
        if text and text == self._text and self._is_there(directory):
            assert self._notice is not None  # its text is there
            os.utime(self._notice)
        elif text:
            self._write(text, directory)
        elif self._notice is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=directory)
            self._forget()

    def _is_there(self, directory: int) -> bool:
        try:
            found = os.stat(self._name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return self._notice is not None and os.path.samestat(found, os.fstat(self._notice))

    def _write(self, text: bytes, directory: int) -> None:
        """In one step complete, or not at all. Nobody else can open it before it is locked."""
        unfinished = self._name.removesuffix(_SUFFIX) + _UNFINISHED
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        notice = os.open(unfinished, flags, 0o600, dir_fd=directory)
        try:
            fcntl.flock(notice, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(notice, text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), unfinished)
            os.fchmod(notice, _READABLE_BY_ALL)
            os.rename(unfinished, self._name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.close(notice)
            with suppress(OSError):
                os.unlink(unfinished, dir_fd=directory)
            self._name = _new_name()  # the old one may be taken by what we may not replace
            raise
        self._forget()
        self._notice, self._text = notice, text

    def _forget(self) -> None:
        if self._notice is not None:
            os.close(self._notice)
        self._notice, self._text = None, b""

    # -- troubles ---------------------------------------------------------------------------------------------------

    def _note_lock(self, gpu: str, trouble: str | None) -> None:
        self._note(f"lock of {gpu}", trouble)

    def _note(self, what: str, trouble: str | None) -> None:
        """Remember what is wrong, or no longer is. The log hears of each change once."""
        with self._noting:
            before, known = self._troubles.get(what), set(self._troubles.values())
            if trouble is None:
                self._troubles.pop(what, None)
            else:
                self._troubles[what] = trouble
            over = before is not None and before not in self._troubles.values()
        if trouble is not None and trouble not in known:
            logger.warning(trouble)
        elif over:
            logger.info("No longer so: %s", before)


def _new_name() -> str:
    return f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"


def _alone(error: Unusable) -> str:
    return f"This server works alone on the machine's GPUs: {error}. See `node_dir`."


def _read(name: str, directory: int) -> dict[str, int]:
    """What a notice says. Raises OSError or `Garbage` for what does not count."""
    opened = open_plain(name, directory)
    try:
        found = os.fstat(opened)
        age = time.time() - found.st_mtime
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_size > MAX_FILE_BYTES:
            raise Garbage("not its owner's alone, or too long")
        if not name.endswith(_SUFFIX) and age <= LEFT_ALONE_SECONDS:
            raise Garbage("in the making")  # and about to be locked: we must not be in the way
        if _is_orphan(opened):
            if age > LEFT_ALONE_SECONDS:
                os.unlink(name, dir_fd=directory)  # the sticky bit says whether we may
            raise Garbage("its writer is gone")
        if not name.endswith(_SUFFIX) or abs(age) > FRESH_SECONDS:
            raise Garbage("unfinished, or not renewed")
        return from_json(os.read(opened, MAX_FILE_BYTES))
    finally:
        os.close(opened)


def _is_orphan(opened: int) -> bool:
    """Whether nobody holds its lock. Tried shared: two who look at once must not take each other for the writer."""
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
