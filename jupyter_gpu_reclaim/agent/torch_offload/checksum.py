"""The same 64-bit integer from the same bytes, on the GPU and on the host: whether a copy is what was copied.

The bytes are seen as rows of 512, the last one filled up with zeros. The 64-bit words of a row are added up; the sums
of 16 rows, each folded and times an odd number of its own, are added up to a group's; that is mixed with the group's
place by steps that can be undone, and the results are added up, all modulo 2^64. Integers only: what floating-point
sums come to depends on the order in which a device adds.

Noticed for certain: any damage within one row that changes the sum of its words; a flipped bit is that. Noticed but for
a chance that is smaller the more is wrong: ranges that are zeroed or stale, rows that are missing, exchanged or
elsewhere. Not noticed: words that change places within one row, errors within one row that cancel each other.

Tried: sums over columns beside those over rows, which would notice more, and cost a CPU three times as much again. Rows
weighed with odd constants alone: a highest bit could change rows unnoticed, as the difference of two odd numbers is
even; for groups, one round of mixing still left that an even chance. Mixing every row: as slow as summing its words.
"""

import torch

ROW_BYTES = 512
_GROUP_ROWS = 16
_READ_IN_PLACE = 1 << 20  # from here on the bytes are worth a call of their own
_PACK_BYTES = (
    1 << 20
)  # shorter ones are packed in so much memory at a time: it fits an allocator's smallest segments
_BY_SUM, _BY_PLACE = -0x61C8864680B583EB, -0x4B47D0C5A1A8E2D3  # any odd numbers
_BY_MIX = (-0x00AE502812AA7333, -0x3B314601E57A13AD)  # MurmurHash3's


def of_views(views):
    """The checksum of uint8 tensors on one device, as if they lay one after the other, each filled up to whole rows.

    Each lies at a multiple of 8 bytes. Large ones are read where they lie, what remains is packed together. Takes up to
    about 2 MiB of the device's memory while it runs, for 16 MiB.
    """
    lengths = list(map(len, views))
    sums = _Sums(lengths, views[0].device) if views else None
    rests, rest_lengths = [], []

    def pack():
        for start, end in _runs(rest_lengths):
            sums.add(_packed(rests[start:end], rest_lengths[start:end]))
        rests.clear()
        rest_lengths.clear()

    for view, nbytes in zip(views, lengths):
        whole = _whole_rows(nbytes)
        if whole:
            pack()  # the rows come in the order of the views
            sums.add(view[:whole])
            view, nbytes = view[whole:], nbytes - whole
        if nbytes:
            rests.append(view)
            rest_lengths.append(nbytes)
    if views:
        pack()
    return sums.mixed() if sums else 0


def row_bytes(nbytes):
    """So many bytes filled up to whole rows."""
    return -(-nbytes // ROW_BYTES) * ROW_BYTES


def _whole_rows(nbytes):
    """The bytes of a piece that are summed where they lie, before all that is packed."""
    return nbytes - nbytes % ROW_BYTES if nbytes >= _READ_IN_PLACE else 0


def _runs(lengths):
    """(start, end) of the pieces to be packed at once, in order."""
    start, room = 0, 0
    for i, nbytes in enumerate(lengths):
        if room and room + row_bytes(nbytes) > _PACK_BYTES:
            yield start, i
            start, room = i, 0
        room += row_bytes(nbytes)
    if lengths:
        yield start, len(lengths)


def _packed(views, lengths):
    cuts = [n for nbytes in lengths for n in (nbytes, row_bytes(nbytes) - nbytes)]
    packed = torch.zeros(sum(cuts), dtype=torch.uint8, device=views[0].device)
    torch._foreach_copy_(packed.split(cuts)[::2], views)
    return packed


class _Sums:
    """The sums of the rows, in the order in which they are added."""

    def __init__(self, lengths, device):
        count = sum(map(row_bytes, lengths)) // ROW_BYTES
        groups = -(-count // _GROUP_ROWS)
        self._sums = torch.zeros(groups * _GROUP_ROWS, dtype=torch.int64, device=device)
        self._count = 0

    def add(self, rows):
        """These bytes, whole rows of them, come next."""
        rows = rows.view(torch.int64).view(-1, ROW_BYTES // 8)
        torch.sum(rows, dim=1, out=self._sums[self._count : self._count + len(rows)])
        self._count += len(rows)

    def mixed(self):
        """The checksum: an int."""
        weights = torch.arange(1, 2 * _GROUP_ROWS, 2, dtype=torch.int64, device=self._sums.device)
        groups = _folded(self._sums).view(-1, _GROUP_ROWS).mul_(weights).sum(dim=1)
        places = torch.arange(1, len(groups) + 1, dtype=torch.int64, device=groups.device)
        mixed = groups.mul_(_BY_SUM).add_(places.mul_(_BY_PLACE))
        for factor in _BY_MIX:
            _folded(mixed).mul_(factor)
        return int(_folded(mixed).sum())


def _folded(words):
    """The words, in place, with their high bits also among their low ones, so that no product loses them."""
    shifted = words >> 33  # repeats the sign: cut off what it filled in
    return words.bitwise_xor_(shifted.bitwise_and_(0x7FFFFFFF))
