"""Moves the bytes of the parts to host memory and back: prepare (copy everything), then commit (exchange everything).

Whatever happens before the commit leaves every tensor as it was. The way back starts from the host's bytes alone, so
it can be repeated after any failure.

Bytes are verified batch by batch, while they are warm in the processor's caches: a checksum is taken on the device
before the copy out, compared with the host's after it, while nothing has changed yet, and with the device's again after
the copy back, before any tensor is given its bytes.
"""

import threading
import time

import torch

from . import crew, staging
from .accelerator import OutOfMemoryError
from .batches import aligned, plan
from .checksum import of_image, of_views
from .exchange import bytes_of
from .find import no_user_code
from .outcome import Cancelled, CopyDamaged
from .spill import SpillFile

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
    """The parts of one episode, with their places in the host buffer. With `verify` every byte is, both ways."""

    def __init__(self, parts, host, accelerator, exchange, verify=True):
        self.parts = parts
        self.nbytes = sum(part.nbytes for part in parts)
        self._host, self._accelerator, self._exchange = host, accelerator, exchange
        self._batches, self._layout_bytes = plan((part.index, part.nbytes) for part in parts)
        self._in_memory = self._layout_bytes  # from there on the layout lies on disk
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
        return self._layout_bytes - self._in_memory

    def reserve(self, host_limit_bytes, spill_room):
        """Takes the host memory for the layout and, if there is too little and somewhere to spill, disk for the rest.

        Copying to disk takes a batch of memory besides, in each thread. Raises OutOfHostMemory when both together are
        too little.
        """
        if spill_room is not None and host_limit_bytes is not None and host_limit_bytes < self._layout_bytes:
            ends = (batch.offset + batch.nbytes for batch in self._batches)
            self._in_memory = max((end for end in ends if end <= host_limit_bytes), default=0)
        self._host.reserve(self._in_memory, host_limit_bytes)
        if self.spilled_bytes:
            self._spill = SpillFile(spill_room, self.spilled_bytes)

    def copy_out(self, pace):
        """Copies every part to the host buffer, which must have room. Changes nothing on the device.

        Raises CopyDamaged.
        """
        self.synchronize()  # what the user's streams still do must be in the bytes
        self._each_batch(lambda batch, copier: self._out(batch, copier, pace))
        if self._spill is not None:
            self._spill.settle()
        pace.check()

    def vacate(self):
        """Takes the device memory from every part: from here on their bytes are on the host only."""
        self._exchange.vacate(self.parts)

    def homes(self):
        """Device memory for every part, not filled yet. Raises what the allocator raises, with nothing changed."""
        return self._exchange.homes(self.parts)

    def copy_in(self, homes, pace):
        """Fills the homes from the host buffer. Raises CopyDamaged."""
        self.synchronize()  # the homes may be memory that something was still at work on
        self._each_batch(lambda batch, copier: self._in(batch, copier, homes, pace))

    def move_in(self, homes):
        """Gives every part its filled home: from here on the bytes are on the device again."""
        self._exchange.move_in(self.parts, homes)

    def abandon(self):
        """Between `homes` and `move_in`: everything stays offloaded."""
        self._exchange.abandon(self.parts)

    def synchronize(self):
        """Waits for all work on the devices of the parts."""
        for index in sorted({part.index for part in self.parts}):
            self._accelerator.synchronize(index)

    def discard(self):
        """Lets go of the disk space. The host buffer is kept for the next episode."""
        if self._spill is not None:
            self._spill.close()

    def _each_batch(self, act):
        """`act(batch, copier)` for every batch, in the crew's threads; the devices are done with it when it returns."""
        copier = staging.best(self._accelerator, self._host)
        try:
            crew.each(lambda batch: act(batch, copier), self._batches, crew.size())
            self.synchronize()
        finally:
            copier.close()

    def _out(self, batch, copier, pace):
        """One batch to the host, in one of the crew's threads."""
        pace.check()
        with no_user_code():
            on_device = _stretches(batch, lambda part: bytes_of(self.parts[part].storage))
            if self._verify:
                self._sums[batch.offset] = _sum_on_device(batch, on_device)
            in_memory = batch.offset < self._in_memory
            image = self._host.slice(batch.offset, batch.nbytes) if in_memory else _scratch(batch)
            on_host = _Image(image, batch)
            copier.to_host(on_host.stretches, on_device)
            if self._verify and on_host.checksum() != self._sums[batch.offset]:
                raise CopyDamaged(_DAMAGED_OUT, self._index(batch))
            if not in_memory:
                self._spill.write(batch.offset - self._in_memory, image)
        pace.step(sum(_lengths(batch)))

    def _in(self, batch, copier, homes, pace):
        """One batch to the device, in one of the crew's threads."""
        pace.check()
        with no_user_code():
            if batch.offset < self._in_memory:
                image = self._host.slice(batch.offset, batch.nbytes)
            else:
                image = self._spill.read(batch.offset - self._in_memory, batch.nbytes)
            on_device, on_host = _stretches(batch, homes.__getitem__), _Image(image, batch)
            copier.to_device(on_device, on_host.stretches)
            checksum = self._sums.get(batch.offset)
            if checksum is not None and _sum_on_device(batch, on_device) != checksum:
                intact = on_host.checksum() == checksum
                raise CopyDamaged(_DAMAGED_BACK if intact else _DAMAGED_THERE, self._index(batch), intact)
        pace.step(sum(_lengths(batch)))

    def _index(self, batch):
        return self.parts[batch.stretches[0].part].index


class _Image:
    """A batch on the host: `stretches` are the uint8 views of what is in it."""

    def __init__(self, image, batch):
        self._image, self._lengths = image, _lengths(batch)
        pieces = image.split([n for nbytes in self._lengths for n in (nbytes, aligned(nbytes) - nbytes)])
        self.stretches, self._gaps = pieces[::2], pieces[1::2]

    def checksum(self):
        """What `_sum_on_device` gives for the same bytes."""
        gaps = [gap for gap in self._gaps if len(gap)]
        if gaps:
            torch._foreach_zero_(gaps)
        return of_image(self._image, self._lengths)


def _sum_on_device(batch, views):
    """The checksum of the batch's bytes on the device, taken there.

    Where the device has no room left for the little that takes, its bytes are read a second time instead: a fault
    that comes and goes is noticed by that, too.
    """
    try:
        return of_views(views, _lengths(batch))
    except OutOfMemoryError:
        again = _Image(_scratch(batch), batch)
        torch._foreach_copy_(again.stretches, views)
        return again.checksum()


def _scratch(batch):
    return torch.zeros(batch.nbytes, dtype=torch.uint8, device="cpu")


def _lengths(batch):
    return [stretch.nbytes for stretch in batch.stretches]


def _stretches(batch, whole):
    """The uint8 views on the device, one a stretch of the batch; `whole(part)` is the view of a whole part."""
    views = []
    for part, start, nbytes in batch.stretches:
        view = whole(part)
        views.append(view if len(view) == nbytes else view[start : start + nbytes])
    return views
