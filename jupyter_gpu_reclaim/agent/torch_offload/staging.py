"""How a batch gets across: straight, or on CUDA through page-locked memory, which the GPU copies from and to by itself.

A copy between the GPU and ordinary memory is cut into pieces by the driver, which waits for each. So each of the crew's
threads copies through a page-locked buffer of one batch instead, on a stream of its own: while one thread waits for the
GPU another one copies between its buffer and the host's, so no thread needs two buffers. At most one buffer a thread,
4 × 16 MiB beside the host buffer, and only while bytes move: page-locked memory is taken from the whole machine.

The streams need no events: nothing runs on the devices when a copy begins, each stream is waited for before its
batch counts as copied, and the memory, taken on another stream, is given back only after all that. Written against
PyTorch's documented behaviour; NOT verified on hardware by this project's tests.
"""

import mmap
import threading

import torch

from . import cuda
from .batches import BATCH_BYTES, aligned


def best(accelerator, host):
    """The fastest way for this accelerator and this `HostBuffer`. To be closed after use."""
    if accelerator.type != "cuda" or host.is_page_locked or not cuda.has_streams():
        return Straight()
    return Staged()


class Straight:
    """One call a batch: the GIL is released once, and small tensors cost little more than their bytes."""

    def to_host(self, on_host, on_device):
        """Copies uint8 views of one device to views of the same lengths on the host; they are there when it returns."""
        torch._foreach_copy_(on_host, on_device)

    def to_device(self, on_device, on_host):
        """The other way round."""
        torch._foreach_copy_(on_device, on_host)

    def close(self):
        """There is nothing to give back."""


class Staged:
    """Through page-locked buffers, by any number of threads; straight where the driver refuses to lock any."""

    def __init__(self):
        self._straight = Straight()
        self._lanes, self._idle = [], []
        self._lock = threading.Lock()
        self._refused = False

    def to_host(self, on_host, on_device):
        """As `Straight.to_host`."""
        lane = self._take()
        if lane is None:
            return self._straight.to_host(on_host, on_device)
        try:
            staged = lane.views(on_host)
            lane.copy(on_device[0].device, staged, on_device)
            torch._foreach_copy_(on_host, staged)
        finally:
            self._give_back(lane)

    def to_device(self, on_device, on_host):
        """As `Straight.to_device`."""
        lane = self._take()
        if lane is None:
            return self._straight.to_device(on_device, on_host)
        try:
            staged = lane.views(on_host)
            torch._foreach_copy_(staged, on_host)
            lane.copy(on_device[0].device, on_device, staged)
        finally:
            self._give_back(lane)

    def close(self):
        """Unlocks every buffer and gives it back to the host. No copy may be under way."""
        lanes, self._lanes, self._idle = self._lanes, [], []
        for lane in lanes:
            lane.close()

    def _take(self):
        """A lane for one batch, which nobody else has; None where there can be none."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._refused:
                return None
            lane = _Lane()
            if not lane.locked:
                self._refused = True
                return None
            self._lanes.append(lane)
            return lane

    def _give_back(self, lane):
        with self._lock:
            self._idle.append(lane)


class _Lane:
    """A page-locked buffer for one batch, and a stream on each device."""

    def __init__(self):
        memory = mmap.mmap(-1, BATCH_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8)  # keeps the mapping alive
        self._streams = {}
        self.locked = cuda.page_lock(self._bytes.data_ptr(), BATCH_BYTES)

    def views(self, like):
        """Views of the buffer, each as long as its like."""
        views, at = [], 0
        for nbytes in map(len, like):
            views.append(self._bytes[at : at + nbytes])
            at += aligned(nbytes)
        return views

    def copy(self, device, targets, sources):
        """Copies between the device and the buffer; it is done when this returns."""
        if device not in self._streams:
            self._streams[device] = cuda.side_stream(device)
        cuda.copy_on(self._streams[device], targets, sources)

    def close(self):
        """Undoes the lock; the memory goes with the last view of it."""
        cuda.page_unlock(self._bytes.data_ptr())
        self._bytes = None
