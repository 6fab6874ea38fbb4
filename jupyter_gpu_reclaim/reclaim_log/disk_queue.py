"""Rows that wait for the database: a file of fixed size on a local disk. Everything here blocks.

The file's room is claimed when it is made, so that a disk that is full later does not keep rows out. It has two halves
that are filled in turn, each a head and records behind it; where the second is full as well, the older half is dropped
and counted. What is written is synchronised before `put` returns, and a record that a crash cut short is seen by its
checksum. Rows taken out are only remembered in memory until all are: after a crash some may be given again, so whoever
takes them must bear with a row that it has.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

HALF_BYTES = 2 << 20
SLOTS = 32  # servers of one user at the same time
HEAD = struct.Struct("<8sQQI")  # magic, generation, rows dropped, checksum of these
RECORD = struct.Struct("<QII")  # generation of the half, length, checksum of these and the content
MAGIC = b"gpurecl1"


class DiskQueue:
    """One server's queue, in a file in `folder` that no other server uses at the time. Content is bytes, in order."""

    def __init__(self, folder: Path, half_bytes: int = HALF_BYTES) -> None:
        self._folder = folder
        self._half_bytes = half_bytes
        self._file: int | None = None
        self.slot: int | None = None  # which of the folder's files; no two servers at a time have the same
        self._active = 0
        self._generations = [0, 0]
        self._end = HEAD.size  # where the next record of the active half goes
        self._rows: deque[tuple[int, int, bytes]] = deque()  # number, half, content
        self._next_number = 0
        self._dropped_since: list[int] = []  # numbers dropped since the last `oldest`
        self.dropped = 0  # rows given up for want of room, until `told()`

    def __len__(self) -> int:
        return len(self._rows)

    def open(self) -> None:
        """Take a file, and into it what servers that are gone have left in theirs. Once is enough. Raises OSError."""
        if self._file is not None:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for slot in range(SLOTS):
            path = self._folder / f"queue-{slot}"
            if self._file is not None and not path.exists():
                continue
            taken = _locked(path)
            if taken is None:
                continue
            if self._file is None:
                self._begin(taken)
                self.slot = slot
            else:
                self._adopt(taken, path)
        if self._file is None:
            raise OSError(f"all {SLOTS} files in {self._folder} are in use by other servers")

    def put(self, contents: Sequence[bytes]) -> None:
        """Keep these behind those that wait; they are on the disk when this returns. Raises OSError and ValueError."""
        self.open()
        if not contents:
            return
        for content in contents:
            if HEAD.size + RECORD.size + len(content) > self._half_bytes:
                raise ValueError(f"a row of {len(content)} bytes does not fit into the queue on disk")
        half, end, number = self._active, self._end, self._next_number
        try:
            for content in contents:
                self._write(content)
            os.fdatasync(self._file)
        except OSError:
            if self._active == half:
                self._end = end  # written over by the next call
            while self._rows and self._rows[-1][0] >= number:
                self._rows.pop()
            raise

    def oldest(self, count: int) -> tuple[list[bytes], int]:
        """At most `count` of those that wait, in order, and the number to give to `taken` once they are safe."""
        self._dropped_since = []
        rows = [row for row, _ in zip(self._rows, range(count), strict=False)]
        return [content for _, _, content in rows], rows[-1][0] if rows else -1

    def newest(self) -> list[bytes]:
        """All that wait, newest first."""
        return [content for _, _, content in reversed(self._rows)]

    def seen(self) -> list[bytes]:
        """What all files of the folder hold, whoever has them: some may be safe elsewhere already. Raises OSError."""
        found: list[bytes] = []
        for path in sorted(self._folder.glob("queue-*")):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # another server has taken in what was there
            try:
                for half in self._by_age(file):
                    found += self._records(file, half)[0]
            finally:
                os.close(file)
        return found

    def taken(self, number: int) -> None:
        """Those up to `number` are safe elsewhere. Raises OSError; they are taken out all the same."""
        self.dropped -= sum(
            1 for dropped in self._dropped_since if dropped <= number
        )  # on their way, not lost
        self._dropped_since = []
        while self._rows and self._rows[0][0] <= number:
            self._rows.popleft()
        if not self._rows and self._file is not None:
            self._start_half(1 - self._active)
            self._start_half(1 - self._active)

    def told(self, dropped: int) -> None:
        """The loss of so many is written down elsewhere now."""
        self.dropped -= dropped

    def close(self) -> None:
        """Let the file go; what waits in it is there for the next server."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin(self, file: int) -> None:
        try:
            os.posix_fallocate(file, 0, 2 * self._half_bytes)
        except OSError:
            os.close(file)
            raise
        self._file = file
        heads = [self._head(file, half) for half in (0, 1)]
        self._generations = [generation for generation, _ in heads]
        self._active = int(heads[1] > heads[0])
        self.dropped = heads[self._active][1]
        for half in (1 - self._active, self._active):
            contents, self._end = self._records(file, half)
            for content in contents:
                self._remember(half, content)

    def _adopt(self, file: int, path: Path) -> None:
        """Put what waited in the file of a server that is gone into ours, and only then remove it."""
        try:
            for half in self._by_age(file):
                self.put(self._records(file, half)[0])
            self.dropped += max(self._head(file, half) for half in (0, 1))[1]
            path.unlink()
        finally:
            os.close(file)

    def _by_age(self, file: int) -> list[int]:
        return sorted((0, 1), key=lambda half: self._head(file, half))

    def _head(self, file: int, half: int) -> tuple[int, int]:
        """(generation, rows dropped) of a half; zeros where there is none."""
        raw = os.pread(file, HEAD.size, half * self._half_bytes)
        if len(raw) < HEAD.size:
            return 0, 0
        magic, generation, dropped, checksum = HEAD.unpack(raw)
        whole = magic == MAGIC and checksum == zlib.crc32(raw[:-4])
        return (generation, dropped) if whole else (0, 0)

    def _records(self, file: int, half: int) -> tuple[list[bytes], int]:
        """The contents of a half up to the first that is not whole or not of its generation, and where they end."""
        raw = os.pread(file, self._half_bytes, half * self._half_bytes)
        generation, _ = self._head(file, half)
        found, at = [], HEAD.size
        while generation and at + RECORD.size <= len(raw):
            of, length, checksum = RECORD.unpack_from(raw, at)
            content = raw[at + RECORD.size : at + RECORD.size + length]
            if of != generation or len(content) != length or checksum != _checksum(of, content):
                break
            found.append(content)
            at += RECORD.size + length
        return found, at

    def _write(self, content: bytes) -> None:
        if self._end + RECORD.size + len(content) > self._half_bytes or not self._generations[self._active]:
            self._drop(1 - self._active)
            self._start_half(1 - self._active)
        generation = self._generations[self._active]
        record = RECORD.pack(generation, len(content), _checksum(generation, content)) + content
        _write_all(self._file, record, self._active * self._half_bytes + self._end)
        self._end += len(record)
        self._remember(self._active, content)

    def _drop(self, half: int) -> None:
        while self._rows and self._rows[0][1] == half:
            self._dropped_since.append(self._rows.popleft()[0])
            self.dropped += 1

    def _start_half(self, half: int) -> None:
        generation = max(self._generations) + 1
        head = HEAD.pack(MAGIC, generation, self.dropped, 0)[:-4]
        _write_all(self._file, head + struct.pack("<I", zlib.crc32(head)), half * self._half_bytes)
        self._generations[half] = generation
        self._active, self._end = half, HEAD.size

    def _remember(self, half: int, content: bytes) -> None:
        self._rows.append((self._next_number, half, content))
        self._next_number += 1


def _locked(path: Path) -> int | None:
    """The file, made where it lacks, locked for us until it is closed; None while another server has it."""
    import fcntl  # not on Windows, where nothing is queued and the package must load all the same

    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(file)
        if (found.st_dev, found.st_ino) == (os.stat(path).st_dev, os.stat(path).st_ino):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass  # in use, or removed by its last user in between
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def _checksum(generation: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(struct.pack("<QI", generation, len(content))))


def _write_all(file: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written
