"""Decides what may be moved: a storage whose every holder is known, and whose address nobody else can have.

Two counts must both come out even. A tensor's references: one of its Python object, plus those the walk could name;
one more means that something outside Python holds it (DLPack, TorchScript, an extension) and may know its address.
A storage's references: one of its Python object, plus one of each tensor we know on it; one more means a tensor that
we do not know. (The storage's count alone is useless: an export through DLPack holds the tensor, not the storage.)

Then the allocator's own list of live blocks is laid beside it, so that every byte that stays has a reason.
"""

import gc
from bisect import bisect_right, insort
from collections import Counter, namedtuple
from operator import attrgetter

import torch

from . import cuda
from .accelerator import index_of, place
from .find import no_user_code, walk
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

_use_count = torch.Tensor.__base__._use_count
_storage_use_count = torch._C._storage_Use_Count
_device = torch.UntypedStorage.device.__get__
_data_ptr = torch.UntypedStorage.data_ptr
_nbytes = torch.UntypedStorage.nbytes
_resizable = torch.UntypedStorage.resizable

# One storage that is to move: `nbytes` of it at `address` on device `index`.
Part = namedtuple("Part", ("storage", "index", "nbytes"))

Account = namedtuple(
    "Account",
    (
        "parts",  # [Part] that may move, device by device, largest first
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
    placed = _placed(found)
    reasons = _reasons_by_holder(found, graph_alive)
    _mark_overlaps(placed, reasons)
    if blocks is None:
        unmovable, unexplained = _by_totals(placed, reasons, accelerator)
        staying = None
    else:
        unmovable, unexplained, staying = _by_address(placed, reasons, blocks)
    parts = [
        Part(found.storages[key], index_of(start), end - start)
        for start, end, key in placed
        if key not in reasons
    ]
    parts.sort(key=attrgetter("nbytes"), reverse=True)
    parts.sort(key=attrgetter("index"))
    return Account(parts, dict(unmovable), unexplained, staying)


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


def _placed(found):
    """[(place where it starts, place where it ends, address of the StorageImpl)] of storages with memory, in order."""
    storages = found.storages.values()
    starts_and_sizes = zip(map(_start, storages), map(_nbytes, storages), found.storages)
    return sorted((start, start + nbytes, key) for start, nbytes, key in starts_and_sizes if start and nbytes)


def _start(storage):
    try:
        address = _data_ptr(storage)
    except RuntimeError:  # a wrapper's storage: a size, and no memory
        return None
    return place(_device(storage).index or 0, address) if address else None


def _reasons_by_holder(found, graph_alive):
    """{address of the StorageImpl: reason} for the storages that must stay because of who holds them."""
    if graph_alive:
        return dict.fromkeys(found.storages, GRAPH)
    shared = {reference.cdata for reference in _process_shared()}
    fixed = [key for key, storage in found.storages.items() if not _resizable(storage)]
    taken = cuda.seen_through_array_interface(found.tensors)
    addressed = [key for key, tensor in zip(found.looks_at, found.tensors) if id(tensor) in taken]
    unnamed = held_without_name(found)
    reasons = dict.fromkeys(unnamed, FROZEN if gc.get_freeze_count() else HELD_OUTSIDE)
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
    leaving, kept = {}, {}  # a block's place → address of the StorageImpl in it; → why it stays
    for start, end, key in placed:
        if start in sizes and key not in reasons and start not in private:
            leaving[start] = key
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
            unmovable[reasons[key]] += _rounded(end - start)
    known = sum(_rounded(end - start) for start, end, _ in placed)
    allocated = sum(usage.allocated_bytes for usage in accelerator.touched().values())
    return _with_unexplained(unmovable, max(0, allocated - known))


def _with_unexplained(unmovable, unexplained):
    if unexplained and gc.get_freeze_count():
        unmovable[FROZEN] += unexplained
        return unmovable, 0
    if unexplained:
        unmovable[UNEXPLAINED] += unexplained
    return unmovable, unexplained


_ROUND, _SMALL, _SMALL_SEGMENT = 512, 1 << 20, 2 << 20
_MEDIUM, _MEDIUM_SEGMENT, _LARGE_ROUND = 10 << 20, 20 << 20, 2 << 20


def _rounded(nbytes, unit=_ROUND):
    return -(-nbytes // unit) * unit


def reserve_bytes(sizes):
    """What torch's caching allocator asks of the driver for blocks of these sizes, taken in this order.

    Follows the allocator's published constants: blocks of 512 B in segments of 2 MiB up to 1 MiB, in segments of
    20 MiB up to 10 MiB, above that in segments of their own. Free rests of segments already there are not counted on.
    """
    reserved = 0
    rests = {True: [], False: []}  # small pool?: sorted sizes of free rests
    for size in map(_rounded, sizes):
        small = size <= _SMALL
        pool = rests[small]
        at = bisect_right(pool, size - 1)
        if at < len(pool):
            room = pool.pop(at)
        else:
            room = (
                _SMALL_SEGMENT
                if small
                else _MEDIUM_SEGMENT
                if size < _MEDIUM
                else _rounded(size, _LARGE_ROUND)
            )
            reserved += room
        rest = room - size
        if rest >= _ROUND if small else rest > _SMALL:
            insort(pool, rest)
    return reserved


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
