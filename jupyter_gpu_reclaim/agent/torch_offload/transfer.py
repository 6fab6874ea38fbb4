"""Moves the bytes of the parts to host memory and back: prepare (copy everything), then commit (exchange everything).

Whatever happens before the commit leaves every tensor as it was. The way back starts from the host's bytes alone, so
it can be repeated after any failure.
"""

import time

from .exchange import bytes_of
from .host import layout
from .outcome import Cancelled

CHUNK_BYTES = 64 << 20  # between two chunks a copy looks whether it is cancelled, and tells how far it is
_PROGRESS_SECONDS = 0.2


class Pace:
    """Tells progress, at most five times a second, and stops the copy where the caller wants it stopped."""

    def __init__(self, total_bytes, progress, cancelled=None):
        self._total_bytes, self._progress, self._cancelled = total_bytes, progress, cancelled
        self._done_bytes = 0
        self._told_at = time.monotonic()

    def check(self):
        """Raises Cancelled when the caller asked for it."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("Stopped before anything was changed.")

    def step(self, nbytes):
        """So many more bytes are copied."""
        self._done_bytes += nbytes
        now = time.monotonic()
        if now - self._told_at >= _PROGRESS_SECONDS:
            self._told_at = now
            self._progress(self._done_bytes, self._total_bytes)


class Transfer:
    """The parts of one episode, with their places in the host buffer."""

    def __init__(self, parts, host, accelerator, exchange):
        self.parts = parts
        self.nbytes = sum(part.nbytes for part in parts)
        self._host, self._accelerator, self._exchange = host, accelerator, exchange
        offsets, self.host_bytes = layout(part.nbytes for part in parts)
        self._offsets = dict(zip((part.storage._cdata for part in parts), offsets))

    def copy_out(self, pace):
        """Copies every part to the host buffer, which must have room. Changes nothing on the device."""
        self.synchronize()  # what the user's streams still do must be in the bytes
        for part in self.parts:
            _copy(bytes_of(part.storage), self._on_host(part), pace)
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
        for part, home in zip(self.parts, homes):
            _copy(self._on_host(part), home, pace)
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

    def _on_host(self, part):
        return self._host.slice(self._offsets[part.storage._cdata], part.nbytes)


def _copy(source, target, pace):
    for start in range(0, source.numel(), CHUNK_BYTES):
        pace.check()
        chunk = source[start : start + CHUNK_BYTES]
        target[start : start + CHUNK_BYTES].copy_(chunk)
        pace.step(chunk.numel())
