"""Moves the bytes of the parts to host memory and back: prepare (copy everything), then commit (exchange everything).

Whatever happens before the commit leaves every tensor as it was. The way back starts from the host's bytes alone, so
it can be repeated after any failure.
"""

import threading
import time

import torch

from . import crew
from .batches import aligned, plan
from .exchange import bytes_of
from .find import no_user_code
from .outcome import Cancelled

_PROGRESS_SECONDS = 0.2


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
    """The parts of one episode, with their places in the host buffer."""

    def __init__(self, parts, host, accelerator, exchange):
        self.parts = parts
        self.nbytes = sum(part.nbytes for part in parts)
        self._host, self._accelerator, self._exchange = host, accelerator, exchange
        self._batches, self.host_bytes = plan(part.nbytes for part in parts)

    def copy_out(self, pace):
        """Copies every part to the host buffer, which must have room. Changes nothing on the device."""
        self.synchronize()  # what the user's streams still do must be in the bytes
        crew.each(lambda batch: self._out(batch, pace), self._batches, crew.size())
        self.synchronize()
        pace.check()

    def vacate(self):
        """Takes the device memory from every part: from here on their bytes are on the host only."""
        self._exchange.vacate(self.parts)

    def homes(self):
        """Device memory for every part, not filled yet. Raises what the allocator raises, with nothing changed."""
        return self._exchange.homes(self.parts)

    def copy_in(self, homes, pace):
        """Fills the homes from the host buffer."""
        crew.each(lambda batch: self._in(batch, homes, pace), self._batches, crew.size())
        self.synchronize()

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

    def _out(self, batch, pace):
        """One batch to the host, in one of the crew's threads."""
        pace.check()
        with no_user_code():
            on_device = _stretches(batch, lambda part: bytes_of(self.parts[part].storage))
            _copy(self._on_host(batch), on_device)
        pace.step(sum(stretch.nbytes for stretch in batch.stretches))

    def _in(self, batch, homes, pace):
        """One batch to the device, in one of the crew's threads."""
        pace.check()
        with no_user_code():
            _copy(_stretches(batch, homes.__getitem__), self._on_host(batch))
        pace.step(sum(stretch.nbytes for stretch in batch.stretches))

    def _on_host(self, batch):
        """The uint8 views of the host buffer, one a stretch of the batch."""
        lengths = [n for s in batch.stretches for n in (s.nbytes, aligned(s.nbytes) - s.nbytes)]
        return self._host.slice(batch.offset, batch.nbytes).split(lengths)[::2]


def _stretches(batch, whole):
    """The uint8 views on the device, one a stretch of the batch; `whole(part)` is the view of a whole part."""
    views = []
    for part, start, nbytes in batch.stretches:
        view = whole(part)
        views.append(view if len(view) == nbytes else view[start : start + nbytes])
    return views


def _copy(targets, sources):
    # one call for all: the GIL is released once, and small tensors cost little more than their bytes
    torch._foreach_copy_(targets, sources)
