"""Decides what may be moved: a storage whose every holder is known, and whose address nobody else can have.

Two counts must both come out even. A tensor's references: one of its Python object, plus those the walk could name;
one more means that something outside Python holds it (DLPack, TorchScript, an extension) and may know its address.
A storage's references: one of its Python object, plus one of each tensor we know on it; one more means a tensor that
we do not know. (The storage's count alone is useless: an export through DLPack holds the tensor, not the storage.)

Then the allocator's own list of live blocks is laid beside it, so that every byte that stays has a reason.
"""

import gc
from bisect import bisect_left, bisect_right
from collections import Counter, namedtuple
from operator import add, gt

import torch

from . import cuda
from .batches import BLOCK_BYTES
from .find import no_user_code, walk
from .needed import SMALL_BYTES, rounded
from .outcome import (
    ARRAY_INTERFACE,
    BORROWED,
    FROZEN,
    GRAPH,
    HELD_OUTSIDE,
    NOT_OURS,
    OVERLAPPING,
    PRIVATE_POOL,
    SHARED,
    UNEXPLAINED,
    Unsupported,
)
from .places import index_of, place

_use_count = torch.Tensor.__base__._use_count
_storage_use_count = torch._C._storage_Use_Count
_device = torch.UntypedStorage.device.__get__
_data_ptr = torch.UntypedStorage.data_ptr
_nbytes = torch.UntypedStorage.nbytes
_resizable = torch.UntypedStorage.resizable


# The storages that are to move, each with its place and its bytes: lists of one length, device by device as `counts`
# says, [(index, how many)]. `whole_blocks`: the allocator gives no two of them bytes of the same 512.
Parts = namedtuple("Parts", ("storages", "places", "sizes", "counts", "whole_blocks"))

Account = namedtuple(
    "Account",
    (
        "parts",  # the `Parts` that may move, the order in which their bytes are laid out and allocated again
        "unmovable",  # {reason: bytes} that stay, as the allocator counts them
        "unexplained_bytes",  # the part of `unmovable` with no known owner
        "staying",  # {place} of the allocator's blocks that stay; None where it cannot list them
    ),
)


def account(found, accelerator):
    """The `Account` of what was found. Call inside `no_user_code()`, while `found` still holds every tensor."""
    graph_types = cuda.graph_types()
    graph_alive = any(type(o) in graph_types for o in found.watched)
    blocks = _live_blocks(accelerator, graph_alive)
    placed = _placed(found, accelerator)
    reasons = _reasons_by_holder(found, graph_alive)
    _mark_overlaps(placed, reasons)
    if blocks is None:
        unmovable, unexplained = _by_totals(placed, reasons, accelerator)
        staying, whole_blocks = None, False
    else:
        unmovable, unexplained, staying = _by_address(placed, reasons, blocks)
        whole_blocks = not any(number % BLOCK_BYTES for pair in blocks.sizes.items() for number in pair)
    return Account(_parts(placed, reasons, found, whole_blocks), dict(unmovable), unexplained, staying)


def _parts(placed, reasons, found, whole_blocks):
    """What moves: device by device, the largest first, since they find room best so; small ones as they lie, since
    neighbours are moved in one piece."""
    moving = [row for row in placed if row[2] not in reasons] if reasons else placed
    rows, counts = [], []
    while len(rows) < len(moving):
        index = index_of(moving[len(rows)][0])
        of_device = moving[len(rows) : bisect_left(moving, (place(index + 1, 0),))]
        counts.append((index, len(of_device)))
        large = [row for row in of_device if row[1] - row[0] > SMALL_BYTES]
        rows += sorted(large, key=lambda row: row[0] - row[1])
        rows += [row for row in of_device if row[1] - row[0] <= SMALL_BYTES] if large else of_device
    storages = [found.storages[key] for _, _, key in rows]
    places, sizes = [start for start, _, _ in rows], [end - start for start, end, _ in rows]
    return Parts(storages, places, sizes, counts, whole_blocks)


def with_the_rest(decided, accelerator):
    """(`unmovable`, `unexplained_bytes`) once the parts are gone: live blocks that were not to stay are unexplained."""
    blocks = None if decided.staying is None else accelerator.live_blocks()
    sizes = blocks.sizes if blocks else {}
    strangers = sum(nbytes for at, nbytes in sizes.items() if at not in decided.staying)
    unmovable, unexplained = _with_unexplained(Counter(decided.unmovable), strangers)
    return dict(unmovable), decided.unexplained_bytes + unexplained


def _live_blocks(accelerator, graph_alive):
    """The allocator's blocks; cuBLAS's scratch memory is given back first where no graph can have its address."""
    blocks = accelerator.live_blocks()
    if blocks is None or blocks.private or graph_alive:
        return blocks
    before = accelerator.touched()
    cuda.clear_workspaces(accelerator.type)
    return blocks if accelerator.touched() == before else accelerator.live_blocks()


def _placed(found, accelerator):
    """[(place where it starts, place where it ends, address of the StorageImpl)] of storages with memory, in order."""
    storages = list(found.storages.values())
    addresses = _addresses(storages)
    if accelerator.module.device_count() == 1:  # reading a storage's device takes longer than all the rest
        starts = addresses
    else:
        indices = [device.index or 0 for device in map(_device, storages)]
        starts = [place(*where) if where[1] else 0 for where in zip(indices, addresses)]
    ends = map(add, starts, map(_nbytes, storages))
    return sorted(row for row in zip(starts, ends, found.storages) if row[0] and row[1] > row[0])


def _addresses(storages):
    try:
        return list(map(_data_ptr, storages))
    except RuntimeError:  # a wrapper's storage is among them: a size, and no memory
        return list(map(_address, storages))


def _address(storage):
    try:
        return _data_ptr(storage)
    except RuntimeError:
        return 0


def _reasons_by_holder(found, graph_alive):
    """{address of the StorageImpl: reason} for the storages that must stay because of who holds them."""
    if graph_alive:
        return dict.fromkeys(found.storages, GRAPH)
    shared = {reference.cdata for reference in _process_shared()}
    fixed = [key for key, storage in found.storages.items() if not _resizable(storage)]
    taken = cuda.seen_through_array_interface(found.tensors)
    addressed = [key for key, tensor in zip(found.looks_at, found.tensors) if id(tensor) in taken]
    unnamed = held_without_name(found)
    # (counting what is frozen takes as long as looking through it, so only where it matters)
    reasons = dict.fromkeys(unnamed, FROZEN if unnamed and gc.get_freeze_count() else HELD_OUTSIDE)
    reasons.update(
        dict.fromkeys(addressed, ARRAY_INTERFACE)
    )  # the plainest reason comes last, and is the one given
    reasons.update(dict.fromkeys(fixed, BORROWED))
    reasons.update(dict.fromkeys(shared & found.storages.keys(), SHARED))
    return reasons


def held_without_name(found):
    """{address of the StorageImpl} where the references to a storage, or to a tensor on it, do not come out even."""
    known = Counter(found.looks_at)
    known.update(found.hidden)
    named = found.holders.get  # a missing key of a Counter costs a call
    storages = zip(found.storages, map(_storage_use_count, found.storages))
    tensors = zip(found.looks_at, map(id, found.tensors), map(_use_count, found.tensors))
    uneven = {key for key, uses in storages if uses != 1 + known.get(key, 0)}
    uneven.update(key for key, tensor, uses in tensors if uses != 1 + named(tensor, 0))
    return uneven


def _process_shared():
    """Weak references to the storages that torch.multiprocessing sent or received."""
    import torch.multiprocessing.reductions as reductions

    with reductions.shared_cache.lock:
        return list(reductions.shared_cache.values())


def _mark_overlaps(placed, reasons):
    """Two storages over the same bytes both stay: moving one would leave the other at the old address."""
    starts, ends, _ = zip(*placed) if placed else ((), (), ())
    if not any(map(gt, ends, starts[1:])):
        return
    covered_to, before = 0, None
    for start, end, key in placed:
        if start < covered_to:
            reasons.setdefault(before, OVERLAPPING)
            reasons.setdefault(key, OVERLAPPING)
            end = max(end, covered_to)
        covered_to, before = end, key


def _by_address(placed, reasons, blocks):
    """(bytes by reason, unexplained bytes, blocks that stay); adds to `reasons` what only the blocks can tell."""
    sizes, private = blocks
    starts = sorted(sizes)
    unmovable = Counter()
    leaving = {  # a block's place → address of the StorageImpl in it
        start: key
        for start, _, key in placed
        if start in sizes and key not in reasons and start not in private
    }
    kept = {}  # a block's place → why it stays
    for start, end, key in placed if len(leaving) < len(placed) else ():
        if start in leaving:
            continue
        at = starts[bisect_right(starts, start) - 1] if starts else start
        if not at <= start < at + sizes.get(at, 0):
            reasons[key] = NOT_OURS
            unmovable[NOT_OURS] += end - start
            continue
        reasons.setdefault(key, PRIVATE_POOL if at in private else BORROWED)
        kept[at] = reasons[key]
    for at, reason in kept.items():
        unmovable[reason] += sizes[at]
        if at in leaving:  # where something stays, the whole block stays
            reasons[leaving.pop(at)] = reason
    staying = sizes.keys() - leaving.keys()
    strangers = staying - kept.keys()
    return (*_with_unexplained(unmovable, sum(map(sizes.get, strangers))), staying)


def _by_totals(placed, reasons, accelerator):
    """As `_by_address`, where the allocator cannot list its blocks: by sums, rounded as allocators round."""
    unmovable = Counter()
    for start, end, key in placed:
        if key in reasons:
            unmovable[reasons[key]] += rounded(end - start)
    known = sum(rounded(end - start) for start, end, _ in placed)
    allocated = sum(usage.allocated_bytes for usage in accelerator.touched().values())
    return _with_unexplained(unmovable, max(0, allocated - known))


def _with_unexplained(unmovable, unexplained):
    if unexplained and gc.get_freeze_count():
        unmovable[FROZEN] += unexplained
        return unmovable, 0
    if unexplained:
        unmovable[UNEXPLAINED] += unexplained
    return unmovable, unexplained


def check_counts():
    """Raises Unsupported unless this torch counts as `held_without_name` reads it. Touches the CPU only."""
    with no_user_code(), torch.enable_grad():
        x = torch.ones(8, dtype=torch.float32, device="cpu", requires_grad=True)
        x.grad = torch.ones(8, dtype=torch.float32, device="cpu")
        exported = torch.ones(8, dtype=torch.float32, device="cpu")
        y = (x.exp() * x[::1]).sum()
        capsule = torch.utils.dlpack.to_dlpack(exported)
        found = walk([x, y, exported, exported[2:]], "cpu")
        inside = exported.untyped_storage()._cdata
        resizable = exported.untyped_storage().resizable()
        if len(found.storages) < 5 or not resizable or held_without_name(found) != {inside}:
            raise Unsupported(
                "This version of PyTorch counts references to tensors in a way not understood here."
            )
        del capsule
        if not any(o is exported for o in gc.get_referrers(torch.Tensor)):
            raise Unsupported("Python's garbage collector does not show this version of PyTorch's tensors.")
