"""How the bytes of an episode are laid out in host memory, cut into batches, and found on the device. Pure.

Parts lie one after the other, each at a multiple of 512 bytes. A batch is one unbroken range of that layout, of one
device and of at most `BATCH_BYTES`; a piece is what of a batch lies in one piece on the device, too. Allocators put
small tensors side by side in whole blocks of 512 bytes, so neighbours here that are neighbours there become one piece,
with the unused ends of their blocks. So little is paid per tensor that can be paid per batch: a call to copy, looking
whether the move is cancelled, telling progress, a checksum, a write to disk.
"""

from bisect import bisect_right
from collections import namedtuple
from itertools import accumulate, chain
from operator import sub

BATCH_BYTES = 16 << 20  # small enough that several threads end at about the same time
BLOCK_BYTES = 512  # what allocators round to

# A range of the layout: `nbytes` from `offset` on, of which `payload_bytes` are the parts' own, of device `index`.
Batch = namedtuple("Batch", ("offset", "nbytes", "payload_bytes", "index"))

# `nbytes` at `place` on the device, which lie at `offset` in their batch.
Piece = namedtuple("Piece", ("place", "offset", "nbytes"))


def aligned(nbytes):
    """The room that so many bytes take in the layout."""
    return -(-nbytes // BLOCK_BYTES) * BLOCK_BYTES


class Layout:
    """For parts of these sizes, in the order in which they are laid out, device by device: `counts` [(index, parts)].

    `batches` cover `nbytes` in all, without a gap. With `whole_blocks` the allocator gives no two tensors bytes of the
    same 512, and what a tensor leaves of its last 512 is nobody's.
    """

    def __init__(self, counts, sizes, whole_blocks):
        self._sizes, self._whole_blocks = sizes, whole_blocks
        self._rooms = [-(-nbytes // BLOCK_BYTES) * BLOCK_BYTES for nbytes in sizes]
        self._ends = list(accumulate(self._rooms))
        self.nbytes = self._ends[-1] if sizes else 0
        self.batches = list(self._cut(counts))

    def _cut(self, counts):
        # bytes before each part that are nobody's
        gaps = [0, *accumulate(map(sub, self._rooms, self._sizes))]
        parts, start, gaps_before = 0, 0, 0
        for index, count in counts:
            parts += count
            while start < self._ends[parts - 1]:
                end = min(start + BATCH_BYTES, self._ends[parts - 1])
                gaps_by_then = gaps[bisect_right(self._ends, end)]  # a gap lies in one block, so in one batch
                yield Batch(start, end - start, end - start - (gaps_by_then - gaps_before), index)
                start, gaps_before = end, gaps_by_then

    def pieces(self, places):
        """[[Piece], …], one list a batch, with the parts at these places."""
        cut, batches = [[] for _ in self.batches], enumerate(self.batches)
        number, batch = next(batches, (None, None))
        for place, offset, nbytes in self._runs(places):
            while nbytes:
                left = batch.offset + batch.nbytes - offset
                if left <= 0:
                    number, batch = next(batches)
                    continue
                taken = min(nbytes, left)
                cut[number].append(Piece(place, offset - batch.offset, taken))
                place, offset, nbytes = place + taken, offset + taken, nbytes - taken
        return cut

    def _runs(self, places):
        """(place, offset, bytes) of what lies in one piece, in order."""
        offsets = chain((0,), self._ends)
        if not self._whole_blocks:
            yield from zip(places, offsets, self._sizes)
            return
        expected, run = None, None
        for place, offset, room in zip(places, offsets, self._rooms):
            if place == expected:
                expected += room
                continue
            if run is not None:
                yield (*run, expected - run[0])
            run, expected = (place, offset), place + room
        if run is not None:
            yield (*run, expected - run[0])
