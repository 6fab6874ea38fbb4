"""Disk as the last resort of host memory: one file without a name, of this process alone, gone with it.

O_TMPFILE makes it without a name, so a process that is killed at any moment leaves nothing behind. Each piece has its
checksum, which is compared when it is read back. Everything is on the disk, not only in the kernel's cache, before the
GPU memory is given up: a cache would be the very memory there is too little of, and disks fail late.
"""

import ctypes
import errno
import os
import threading
from pathlib import Path

import torch

from .checksum import of_views
from .outcome import OutOfHostMemory

_IN_MEMORY = ("tmpfs", "ramfs")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WITHOUT_NAMELESS_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}


class SpillDamaged(Exception):
    """What was read back is not what was written. It is the only copy."""


class SpillFile:
    """`nbytes` on disk, in a `SpillRoom`, written and read back in pieces by several threads.

    Raises OutOfHostMemory with the reason when the folder cannot take so many bytes.
    """

    def __init__(self, room, nbytes):
        self._folder, self.nbytes = room.folder, nbytes
        if nbytes > room.limit_bytes:
            raise OutOfHostMemory(
                "{} bytes do not fit in host memory, and only {} may be spilled to disk.".format(
                    nbytes, room.limit_bytes
                )
            )
        self._sums = {}  # offset → checksum of the piece there
        self._lock = threading.Lock()
        self._file = _nameless_file(room.folder)
        space = os.fstatvfs(self._file)
        if space.f_bavail * space.f_frsize < nbytes:
            self.close()
            raise OutOfHostMemory(
                "{} bytes do not fit in host memory, and {} has only {} free.".format(
                    nbytes, room.folder, space.f_bavail * space.f_frsize
                )
            )

    def write(self, offset, piece):
        """Writes a uint8 CPU tensor to that place in the file."""
        checksum = of_views([piece])
        with self._lock:
            self._sums[offset] = checksum
        rest = _memory_of(piece)
        try:
            while rest:
                written = os.pwrite(self._file, rest, offset)
                offset, rest = offset + written, rest[written:]
        except OSError as error:
            self._fail(error)

    def settle(self):
        """Everything written is on the disk when this returns, and no longer in the kernel's cache."""
        try:
            os.fsync(self._file)
        except OSError as error:
            self._fail(error)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, offset, nbytes):
        """The piece that was written there, as a uint8 CPU tensor. Raises SpillDamaged, or the disk's OSError."""
        for _ in range(2):  # once more, if need be: the fault may have been on the way from the disk
            piece = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
            rest, at = _memory_of(piece), offset
            while rest:
                got = os.preadv(self._file, [rest], at)
                if not got:
                    raise SpillDamaged("The spill file in {} has become shorter.".format(self._folder))
                at, rest = at + got, rest[got:]
            if of_views([piece]) == self._sums[offset]:
                return piece
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        raise SpillDamaged(
            "{} bytes read back from disk ({}) have another checksum than when they were written.".format(
                nbytes, self._folder
            )
        )

    def close(self):
        """Gives the disk space back. A second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _fail(self, error):
        if error.errno in _FULL:
            raise OutOfHostMemory(
                "Not all fits in host memory, and the disk of {} is full: {}.".format(
                    self._folder, error.strerror
                )
            ) from None
        raise error


def _nameless_file(folder):
    try:
        kind = _file_system(os.stat(folder).st_dev)
        if kind in _IN_MEMORY:
            raise OutOfHostMemory(
                "Not all fits in host memory, and {} is no disk ({}): spilling there would take the same "
                "memory. Set spill_dir to a folder on a disk.".format(folder, kind)
            )
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        why = error.strerror
        if error.errno in _WITHOUT_NAMELESS_FILES:
            why = "its file system has no nameless files (O_TMPFILE), and any other might be left behind"
        raise OutOfHostMemory(
            "Not all fits in host memory, and nothing can be spilled to {}: {}.".format(folder, why)
        ) from None


def _file_system(device):
    """The type of the mounted file system with this device number; "" when it is not listed."""
    wanted = "{}:{}".format(os.major(device), os.minor(device))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return ""


def _memory_of(tensor):
    """The bytes of a contiguous CPU tensor, without a copy (and without numpy, which may not be there)."""
    return memoryview((ctypes.c_char * len(tensor)).from_address(tensor.data_ptr())).cast("B")
