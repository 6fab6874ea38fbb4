"""Moves the bytes of the parts to host memory and back: prepare (copy everything), then commit (exchange everything).

Whatever happens before the commit leaves every tensor as it was. The way back starts from the host's bytes alone, so
it can be repeated after any failure.

Bytes are verified batch by batch, while they are warm in the processor's caches: a checksum is taken on the device
before the copy out, compared with the host's after it, while nothing has changed yet, and with the device's again after
the copy back, before any tensor is given its bytes.
"""

import functools
import threading
import time

import torch

from . import crew, staging
from .accelerator import OutOfMemoryError
from .batches import Layout
from .checksum import of_views
from .find import no_user_code
from .outcome import Cancelled, CopyDamaged
from .places import address_of, index_of, place
from .spill import SpillFile

_storage_at = torch._C._construct_storage_from_data_pointer  # owns nothing
_data_ptr = torch.UntypedStorage.data_ptr

_PROGRESS_SECONDS = 0.2
_DAMAGED_OUT = "A copy from the GPU has another checksum than the bytes there."
_DAMAGED_BACK = "A copy to the GPU has another checksum than the bytes in host memory, which are whole."
_DAMAGED_THERE = (
    "Bytes changed while they were in host memory: they have another checksum than they had on the GPU."
)


class Pace:
    """Tells progress, at most five times a second and at the end, and stops the copy where the caller wants it stopped.

    To be used by several threads; the caller is told by one at a time.
    """

    def __init__(self, total_bytes, progress, cancelled=None):
        self._total_bytes, self._progress, self._cancelled = total_bytes, progress, cancelled
        self._done_bytes = 0
        self._lock = threading.Lock()
        self._told_at = time.monotonic()

    def check(self):
        """Raises Cancelled when the caller asked for it."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("Stopped before anything was changed.")

    def step(self, nbytes):
        """So many more bytes are copied."""
        with self._lock:
            self._done_bytes += nbytes
            now = time.monotonic()
            if now - self._told_at >= _PROGRESS_SECONDS or self._done_bytes == self._total_bytes:
                self._told_at = now
                self._progress(self._done_bytes, self._total_bytes)


class Transfer:
    """The `Parts` of one episode, with their room in the host buffer. With `verify` every byte is, both ways."""

    def __init__(self, parts, host, accelerator, exchange, verify=True):
        self.parts = parts
        self.nbytes = sum(parts.sizes)
        self._host, self._accelerator, self._exchange = host, accelerator, exchange
        self._layout = Layout(parts.counts, parts.sizes, parts.whole_blocks)
        self._in_memory = self._layout.nbytes  # from there on the layout lies on disk
        self._spill = None
        self._verify = verify
        self._sums = {}  # offset of a batch → checksum of its bytes on the device

    @property
    def is_verified(self):
        """Whether checksums were taken of what is on the host."""
        return bool(self._sums)

    @property
    def spilled_bytes(self):
        """How many bytes of the layout lie on disk."""
        return self._layout.nbytes - self._in_memory

    def reserve(self, host_limit_bytes, spill_room):
        """Takes the host memory for the layout and, if there is too little and somewhere to spill, disk for the rest.

        Copying to disk takes a batch of memory besides, in each thread. Raises OutOfHostMemory when both together are
        too little.
        """
        if spill_room is not None and host_limit_bytes is not None and host_limit_bytes < self._layout.nbytes:
            ends = (batch.offset + batch.nbytes for batch in self._layout.batches)
            self._in_memory = max((end for end in ends if end <= host_limit_bytes), default=0)
        self._host.reserve(self._in_memory, host_limit_bytes)
        if self.spilled_bytes:
            self._spill = SpillFile(spill_room, self.spilled_bytes)

    def copy_out(self, pace):
        """Copies every part to the host buffer, which must have room. Changes nothing on the device.

        Raises CopyDamaged.
        """
        self.synchronize()  # what the user's streams still do must be in the bytes
        self._each_batch(self.parts.places, functools.partial(self._out, pace))
        if self._spill is not None:
            self._spill.settle()
        pace.check()

    def vacate(self):
        """Takes the device memory from every part: from here on their bytes are on the host only."""
        self._exchange.vacate(self.parts)

    def homes(self):
        """A storage with device memory for every part, not filled yet. Raises what the allocator raises, with nothing
        changed."""
        return self._exchange.homes(self.parts)

    def copy_in(self, homes, pace):
        """Fills the homes from the host buffer. Raises CopyDamaged."""
        self.synchronize()  # the homes may be memory that something was still at work on
        places = list(map(place, map(index_of, self.parts.places), map(_data_ptr, homes)))
        self._each_batch(places, functools.partial(self._in, pace))

    def move_in(self, homes):
        """Gives every part its filled home: from here on the bytes are on the device again."""
        self._exchange.move_in(self.parts, homes)

    def abandon(self):
        """Between `homes` and `move_in`: everything stays offloaded."""
        self._exchange.abandon(self.parts)

    def synchronize(self):
        """Waits for all work on the devices of the parts."""
        for index in sorted({batch.index for batch in self._layout.batches}):
            self._accelerator.synchronize(index)

    def discard(self):
        """Lets go of the disk space. The host buffer is kept for the next episode."""
        if self._spill is not None:
            self._spill.close()

    def _each_batch(self, places, act):
        """`act(copier, batch, pieces)` for every batch, the parts being at these places, in the crew's threads.

        The devices are done with it when it returns.
        """
        copier = staging.best(self._accelerator, self._host)
        work = list(zip(self._layout.batches, self._layout.pieces(places)))
        try:
            crew.each(lambda item: act(copier, *item), work, crew.size())
            self.synchronize()
        finally:
            copier.close()

    def _out(self, pace, copier, batch, pieces):
        """One batch to the host, in one of the crew's threads."""
        pace.check()
        with no_user_code():
            on_device = self._on_device(batch, pieces)
            if self._verify:
                self._sums[batch.offset] = _sum_on_device(batch, pieces, on_device)
            in_memory = batch.offset < self._in_memory
            image = self._host.slice(batch.offset, batch.nbytes) if in_memory else _scratch(batch)
            on_host = _on_host(image, pieces)
            copier.to_host(on_host, on_device)
            if self._verify and self._sum_on_host(image, on_host) != self._sums[batch.offset]:
                raise CopyDamaged(_DAMAGED_OUT, batch.index)
            if not in_memory:
                self._spill.write(batch.offset - self._in_memory, image)
        pace.step(batch.payload_bytes)

    def _in(self, pace, copier, batch, pieces):
        """One batch to the device, in one of the crew's threads."""
        pace.check()
        with no_user_code():
            if batch.offset < self._in_memory:
                image = self._host.slice(batch.offset, batch.nbytes)
            else:
                image = self._spill.read(batch.offset - self._in_memory, batch.nbytes)
            on_device, on_host = self._on_device(batch, pieces), _on_host(image, pieces)
            copier.to_device(on_device, on_host)
            checksum = self._sums.get(batch.offset)
            if checksum is not None and _sum_on_device(batch, pieces, on_device) != checksum:
                intact = self._sum_on_host(image, on_host) == checksum
                raise CopyDamaged(_DAMAGED_BACK if intact else _DAMAGED_THERE, batch.index, intact)
        pace.step(batch.payload_bytes)

    def _on_device(self, batch, pieces):
        """uint8 views of the pieces. They own nothing: the storages in them must live on."""
        device = self._accelerator.device(batch.index)
        empty = functools.partial(torch.empty, 0, dtype=torch.uint8, device=device)
        return [empty().set_(_storage_at(address_of(p.place), device, p.nbytes)) for p in pieces]

    def _sum_on_host(self, image, views):
        return of_views([image] if self.parts.whole_blocks else views)  # the same rows, with fewer calls


def _on_host(image, pieces):
    return [image[p.offset : p.offset + p.nbytes] for p in pieces]


def _sum_on_device(batch, pieces, views):
    """The checksum of the batch's bytes on the device, taken there.

    Where the device has no room left for the little that takes, its bytes are read a second time instead: a fault
    that comes and goes is noticed by that, too.
    """
    try:
        return of_views(views)
    except OutOfMemoryError:
        again = _on_host(_scratch(batch), pieces)
        torch._foreach_copy_(again, views)
        return of_views(again)


def _scratch(batch):
    return torch.zeros(batch.nbytes, dtype=torch.uint8, device="cpu")
