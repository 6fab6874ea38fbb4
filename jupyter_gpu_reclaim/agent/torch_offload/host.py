"""The host memory that offloaded bytes live in: one buffer, kept until it is released.

It asks for huge pages: the first touch of a page is what a first offload spends most of its time on, and with them it
took a third to a fifth as long here, once the machine had some ready; the very first ones took longer than small pages.
"""

import ctypes
import mmap

import torch

from . import crew, cuda
from .batches import BATCH_BYTES
from .outcome import OutOfHostMemory

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class HostBuffer:
    """Private anonymous memory, grown only when an episode needs more, and gone from the process when released."""

    def __init__(self, page_locked=False):
        self.nbytes = 0
        self._bytes = None  # a uint8 CPU tensor over the mapping, which it keeps alive
        self._memory = None  # the mapping; may be larger than `nbytes`, the rest is without pages
        self._page_locked = page_locked
        self._locked = False

    @property
    def is_page_locked(self):
        """Whether the GPU copies from and to it by itself."""
        return self._locked

    def reserve(self, nbytes, limit_bytes=None):
        """Makes room for `nbytes`. The old contents are lost when it has to grow.

        What is kept from before and not needed now goes back to the host, but for less than a batch. Raises
        OutOfHostMemory when the buffer would have to be larger than `limit_bytes`, or the host gives none.
        """
        if limit_bytes is not None and nbytes > limit_bytes:
            raise OutOfHostMemory(
                "{} bytes of host memory are needed, {} are allowed.".format(nbytes, limit_bytes)
            )
        surplus = nbytes < self.nbytes - BATCH_BYTES
        if nbytes > len(self._memory or ()) or (surplus and self._locked):
            self.release()
            self._map(nbytes)
        elif surplus:
            end = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            self._memory.madvise(mmap.MADV_DONTNEED, end, len(self._memory) - end)
            self.nbytes = nbytes
        self.nbytes = max(self.nbytes, nbytes)

    def _map(self, nbytes):
        if not nbytes:
            return  # an empty mapping is none
        try:
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise OutOfHostMemory("The host refused {} bytes of memory: {}.".format(nbytes, error)) from None
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without them: small pages serve, too
        self._memory, self._bytes = memory, torch.frombuffer(memory, dtype=torch.uint8)
        self.nbytes = nbytes
        if self._page_locked:
            self._locked = cuda.page_lock(self._bytes.data_ptr(), nbytes)

    def touch(self, stopped):
        """Has the host give every page now, in several threads; `stopped()` is asked every few MiB, and ends it.

        Does nothing where the kernel cannot do this ahead (before Linux 5.14): the copy then pays for it.
        """
        address = self._bytes.data_ptr() if self.nbytes else 0

        def populate(offset):
            if not stopped():
                _libc.madvise(address + offset, min(BATCH_BYTES, self.nbytes - offset), _POPULATE_WRITE)

        crew.each(populate, range(0, self.nbytes, BATCH_BYTES), crew.size())

    def slice(self, offset, nbytes):
        """The uint8 CPU tensor over that part of the buffer."""
        return self._bytes[offset : offset + nbytes]

    def release(self):
        """Gives the memory back to the host. Its contents are lost."""
        if self._locked:
            cuda.page_unlock(self._bytes.data_ptr())
            self._locked = False
        self._bytes, self._memory, self.nbytes = None, None, 0
