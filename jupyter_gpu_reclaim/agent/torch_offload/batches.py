"""How the bytes of an episode are laid out in host memory, and cut into batches to be moved one by one. Pure.

Parts lie one after the other, each at a multiple of 512 bytes. A batch is one unbroken range of that layout, of at
most `BATCH_BYTES`: a run of small parts of one device, or a stretch of a large one. So nothing is paid per tensor that
can be paid per batch: looking whether the move is cancelled, telling progress, a checksum, a write to disk.
"""

from collections import namedtuple

BATCH_BYTES = 16 << 20  # small enough that several threads end at about the same time
_ALIGNMENT = 512

# A stretch of one part: its place in the list of parts, where it starts in that part, and its length in bytes.
Stretch = namedtuple("Stretch", ("part", "start", "nbytes"))

# A range of the host's layout, `nbytes` long with its gaps, and the stretches in it from `offset` on, each aligned.
Batch = namedtuple("Batch", ("offset", "nbytes", "stretches"))


def aligned(nbytes):
    """The room that so many bytes take in the layout."""
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def plan(parts):
    """([Batch], bytes in all) for parts that are each (index of its device, bytes), in the order of the layout."""
    batches, offset, start, run, device = [], 0, 0, [], None
    for part, (index, size) in enumerate(parts):
        for begin in range(0, size, BATCH_BYTES):
            nbytes = min(BATCH_BYTES, size - begin)
            if run and (index != device or offset + aligned(nbytes) - start > BATCH_BYTES):
                batches.append(Batch(start, offset - start, run))
                start, run = offset, []
            device = index
            run.append(Stretch(part, begin, nbytes))
            offset += aligned(nbytes)
    if run:
        batches.append(Batch(start, offset - start, run))
    return batches, offset
