"""The host memory that offloaded bytes live in: one buffer, kept until it is released.

Tried: asking for huge pages (MADV_HUGEPAGE); the first touch of 1 GiB was no faster.
"""

import mmap

import torch

from . import cuda
from .outcome import OutOfHostMemory


class HostBuffer:
    """Private anonymous memory, grown only when an episode needs more, and gone from the process when released."""

    def __init__(self, page_locked=False):
        self.nbytes = 0
        self._bytes = None  # a uint8 CPU tensor over the mapping, which it keeps alive
        self._page_locked = page_locked
        self._locked = False

    def reserve(self, nbytes, limit_bytes=None):
        """Makes room for `nbytes`. The old contents are lost when it has to grow.

        Raises OutOfHostMemory when the buffer would have to be larger than `limit_bytes`, or the host gives none.
        """
        if limit_bytes is not None and nbytes > limit_bytes:
            raise OutOfHostMemory(
                "{} bytes of host memory are needed, {} are allowed.".format(nbytes, limit_bytes)
            )
        if nbytes <= self.nbytes:
            return
        self.release()
        try:
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise OutOfHostMemory("The host refused {} bytes of memory: {}.".format(nbytes, error)) from None
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8)
        self.nbytes = nbytes
        if self._page_locked:
            self._locked = cuda.page_lock(self._bytes.data_ptr(), nbytes)

    def slice(self, offset, nbytes):
        """The uint8 CPU tensor over that part of the buffer."""
        return self._bytes[offset : offset + nbytes]

    def release(self):
        """Gives the memory back to the host. Its contents are lost."""
        if self._locked:
            cuda.page_unlock(self._bytes.data_ptr())
            self._locked = False
        self._bytes, self.nbytes = None, 0
