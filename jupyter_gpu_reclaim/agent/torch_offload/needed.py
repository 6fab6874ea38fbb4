"""What torch's caching allocator asks of the driver, by its published constants. Pure."""

from bisect import bisect_left, insort
from itertools import groupby

SMALL_BYTES = 1 << 20  # blocks up to this size share segments
_ROUND, _SMALL_SEGMENT = 512, 2 << 20
_MEDIUM, _MEDIUM_SEGMENT, _LARGE_ROUND = 10 << 20, 20 << 20, 2 << 20


def rounded(nbytes, unit=_ROUND):
    """The size of the block that so many bytes get."""
    return -(-nbytes // unit) * unit


def reserve_bytes(sizes):
    """What the allocator asks of the driver for blocks of these sizes, taken in this order.

    Blocks of 512 B lie in segments of 2 MiB up to 1 MiB, in segments of 20 MiB up to 10 MiB, above that in segments of
    their own. Free rests of segments already there are not counted on.
    """
    reserved = 0
    rests = {True: [], False: []}  # small pool?: sorted sizes of free rests
    for size, run in groupby(map(rounded, sizes)):
        count, small = sum(1 for _ in run), size <= SMALL_BYTES
        pool, least = rests[small], _ROUND if small else SMALL_BYTES + 1
        while count:  # the smallest rest that is large enough, for as many of the run as it holds
            at = bisect_left(pool, size)
            room = pool.pop(at) if at < len(pool) else 0
            if not room:
                room = _segment(size)
                reserved += room
            while count and room >= size:
                room, count = room - size, count - 1
                if room < least:
                    room = 0
            if room:
                insort(pool, room)
    return reserved


def _segment(size):
    if size <= SMALL_BYTES:
        return _SMALL_SEGMENT
    return _MEDIUM_SEGMENT if size < _MEDIUM else rounded(size, _LARGE_ROUND)
