"""The same 64-bit integer from the same bytes, on the GPU and on the host: whether a copy is what was copied.

The bytes are seen as rows of 512, the last one filled up with zeros. The 64-bit words of a row are added up, that sum
is mixed with the row's place by steps that can be undone, and the results are added up, all modulo 2^64. Integers only:
what floating-point sums come to depends on the order in which a device adds.

Noticed for certain: any damage within one row that changes the sum of its words; a flipped bit is that. Noticed but for
a chance of about 2^-64: ranges that are zeroed or stale, rows that are missing, exchanged or elsewhere. Not noticed:
words that change places within one row, errors within one row that cancel each other.

Tried: sums over columns beside those over rows, which would notice more, and cost a CPU three times as much again. Rows
weighed with odd constants instead of mixed: a highest bit could change rows unnoticed, as the difference of two odd
numbers is even; one round of mixing still left that an even chance.
"""

import torch

ROW_BYTES = 512
_READ_IN_PLACE = 64 << 10  # from here on the bytes are worth a call of their own
_PACK_BYTES = (
    1 << 20
)  # shorter ones are packed in so much memory at a time: it fits an allocator's smallest segments
_BY_SUM, _BY_PLACE = -0x61C8864680B583EB, -0x4B47D0C5A1A8E2D3  # any odd numbers
_BY_MIX = (-0x00AE502812AA7333, -0x3B314601E57A13AD)  # MurmurHash3's


def of_bytes(image):
    """The checksum of one uint8 tensor that begins at a multiple of 8 bytes in memory: an int."""
    return of_views([image])


def of_views(views):
    """The checksum of the image of these uint8 tensors: one after the other, each filled up with zeros to whole rows.

    They lie on one device, each at a multiple of 8 bytes. Large ones are read where they lie, what remains is packed
    together. Takes up to about 2 MiB of the device's memory while it runs, for images of up to 16 MiB.
    """
    row_count = sum(-(-len(view) // ROW_BYTES) for view in views)
    if not row_count:
        return 0
    sums = torch.empty(row_count, dtype=torch.int64, device=views[0].device)
    rests, row = [], 0  # [(row where it begins, view)]
    for view in views:
        whole = len(view) // ROW_BYTES
        if len(view) >= _READ_IN_PLACE:
            _sum_rows(view[: whole * ROW_BYTES], sums[row : row + whole])
            row, view = row + whole, view[whole * ROW_BYTES :]
        if len(view):
            rests.append((row, view))
            row += -(-len(view) // ROW_BYTES)
    for run in _runs(rests):
        _sum_packed(run, sums)
    return _mixed(sums)


def _sum_rows(rows, sums):
    torch.sum(rows.view(torch.int64).view(-1, ROW_BYTES // 8), dim=1, out=sums)


def _runs(rests):
    """The rests in groups to be packed at once, in order."""
    run, room = [], 0
    for row, view in rests:
        if run and room + len(view) + ROW_BYTES > _PACK_BYTES:
            yield run
            run, room = [], 0
        run.append((row, view))
        room += -(-len(view) // ROW_BYTES) * ROW_BYTES
    if run:
        yield run


def _sum_packed(run, sums):
    lengths = [n for _, view in run for n in (len(view), -len(view) % ROW_BYTES)]
    packed = torch.zeros(sum(lengths), dtype=torch.uint8, device=sums.device)
    torch._foreach_copy_(packed.split(lengths)[::2], [view for _, view in run])
    first, count = run[0][0], len(packed) // ROW_BYTES
    last, view = run[-1]
    if last + -(-len(view) // ROW_BYTES) == first + count:  # nothing read in place lies between them
        _sum_rows(packed, sums[first : first + count])
        return
    places = [row + i for row, view in run for i in range(-(-len(view) // ROW_BYTES))]
    of_run = torch.empty(count, dtype=torch.int64, device=sums.device)
    _sum_rows(packed, of_run)
    sums.index_copy_(0, torch.tensor(places, dtype=torch.int64, device="cpu").to(sums.device), of_run)


def _mixed(sums):
    places = torch.arange(1, len(sums) + 1, dtype=torch.int64, device=sums.device)
    mixed = sums.mul_(_BY_SUM).add_(places.mul_(_BY_PLACE))
    for factor in _BY_MIX:
        shifted = mixed >> 33  # repeats the sign: cut off what it filled in
        mixed.bitwise_xor_(shifted.bitwise_and_(0x7FFFFFFF)).mul_(factor)
    shifted = mixed >> 33
    return int(mixed.bitwise_xor_(shifted.bitwise_and_(0x7FFFFFFF)).sum())
