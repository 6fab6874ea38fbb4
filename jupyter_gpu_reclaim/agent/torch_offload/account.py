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

import torch

from . import cuda
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

# One storage that is to move: `nbytes` of it at `address` on device `index`.
Part = namedtuple("Part", ("storage", "index", "nbytes"))
_Placed = namedtuple("_Placed", ("index", "address", "end", "storage"))

Account = namedtuple(
    "Account",
    (
        "parts",  # [Part] that may move, largest first
        "unmovable",  # {reason: bytes} that stay, as the allocator counts them
        "unexplained_bytes",  # the part of `unmovable` with no known owner
        "staying",  # {(device index, address)} of the allocator's blocks that stay; None where it cannot list them
    ),
)


def account(found, accelerator):
    """The `Account` of what was found. Call inside `no_user_code()`, while `found` still holds every tensor."""
    graph_types = cuda.graph_types()
    graph_alive = any(type(o) in graph_types for o in found.watched)
    blocks = accelerator.live_blocks()
    if blocks is not None and not graph_alive and not any(block.private for block in blocks):
        cuda.clear_workspaces(accelerator.type)
        blocks = accelerator.live_blocks()
    placed = _placed(found)
    reasons = _reasons_by_holder(found, placed, graph_alive)
    _mark_overlaps(placed, reasons)
    if blocks is None:
        unmovable, unexplained = _by_totals(placed, reasons, accelerator)
        staying = None
    else:
        unmovable, unexplained, staying = _by_address(placed, reasons, blocks)
    parts = [
        Part(p.storage, p.index, p.end - p.address) for p in placed if reasons.get(p.storage._cdata) is None
    ]
    parts.sort(key=lambda part: -part.nbytes)
    return Account(parts, dict(unmovable), unexplained, staying)


def with_the_rest(decided, accelerator):
    """(`unmovable`, `unexplained_bytes`) once the parts are gone: live blocks that were not to stay are unexplained."""
    blocks = None if decided.staying is None else accelerator.live_blocks()
    strangers = sum(b.nbytes for b in blocks or () if (b.index, b.address) not in decided.staying)
    unmovable, unexplained = _with_unexplained(Counter(decided.unmovable), strangers)
    return dict(unmovable), decided.unexplained_bytes + unexplained


def _placed(found):
    placed = []
    for storage in found.storages.values():
        nbytes = storage.nbytes()
        try:
            address = storage.data_ptr() if nbytes else 0
        except RuntimeError:  # a wrapper's storage: a size, and no memory
            address = 0
        if address:
            placed.append(_Placed(storage.device.index or 0, address, address + nbytes, storage))
    placed.sort(key=lambda p: p[:3])
    return placed


def _reasons_by_holder(found, placed, graph_alive):
    """{address of the StorageImpl: reason} for the storages that must stay because of who holds them."""
    shared = {reference.cdata for reference in _process_shared()}
    every_tensor = [t for tensors in found.tensors.values() for t in tensors]
    taken = cuda.seen_through_array_interface(every_tensor)
    frozen = gc.get_freeze_count() > 0
    reasons = {}
    for _, _, _, storage in placed:
        key = storage._cdata
        tensors = found.tensors.get(key, ())
        if graph_alive:
            reasons[key] = GRAPH
        elif key in shared:
            reasons[key] = SHARED
        elif not storage.resizable():
            reasons[key] = BORROWED
        elif any(id(t) in taken for t in tensors):
            reasons[key] = ARRAY_INTERFACE
        elif surplus(found, storage):
            reasons[key] = FROZEN if frozen else HELD_OUTSIDE
    return reasons


def surplus(found, storage):
    """How many references to a storage and to its tensors have no name. 0: every holder is known."""
    key = storage._cdata
    tensors = found.tensors.get(key, ())
    unnamed = abs(_storage_use_count(key) - 1 - len(tensors) - found.hidden[key])
    return unnamed + sum(abs(_use_count(t) - 1 - found.holders[id(t)]) for t in tensors)


def _process_shared():
    """Weak references to the storages that torch.multiprocessing sent or received."""
    import torch.multiprocessing.reductions as reductions

    with reductions.shared_cache.lock:
        return list(reductions.shared_cache.values())


def _mark_overlaps(placed, reasons):
    """Two storages over the same bytes both stay: moving one would leave the other at the old address."""
    cluster, cluster_end = [], (-1, 0)
    for p in placed:
        if cluster and (p.index, p.address) < cluster_end:
            cluster.append(p)
            cluster_end = max(cluster_end, (p.index, p.end))
            for member in cluster:
                reasons.setdefault(member.storage._cdata, OVERLAPPING)
        else:
            cluster, cluster_end = [p], (p.index, p.end)


def _by_address(placed, reasons, blocks):
    """(bytes by reason, unexplained bytes, blocks that stay); adds to `reasons` what only the blocks can tell."""
    blocks = sorted(blocks, key=lambda b: (b.index, b.address))
    starts = [(b.index, b.address) for b in blocks]
    owner = {}  # place in `blocks` → reason it stays, or None when it moves
    unmovable = Counter()
    for p in placed:
        key = p.storage._cdata
        at = bisect_right(starts, (p.index, p.address)) - 1
        block = blocks[at] if at >= 0 else None
        if block is None or block.index != p.index or p.address >= block.address + block.nbytes:
            reasons[key] = NOT_OURS
            unmovable[NOT_OURS] += p.end - p.address
            continue
        if block.private:
            reasons.setdefault(key, PRIVATE_POOL)
        elif block.address != p.address:
            reasons.setdefault(key, BORROWED)
        owner[at] = reasons.get(key) or owner.get(at)
    unexplained, staying = 0, set()
    for at, block in enumerate(blocks):
        if at in owner and owner[at] is None:
            continue
        staying.add((block.index, block.address))
        if at not in owner:
            unexplained += block.nbytes
        else:
            unmovable[owner[at]] += block.nbytes
    return (*_with_unexplained(unmovable, unexplained), staying)


def _by_totals(placed, reasons, accelerator):
    """As `_by_address`, where the allocator cannot list its blocks: by sums, rounded as allocators round."""
    unmovable = Counter()
    for p in placed:
        if p.storage._cdata in reasons:
            unmovable[reasons[p.storage._cdata]] += _rounded(p.end - p.address)
    known = sum(_rounded(p.end - p.address) for p in placed)
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
    """Raises Unsupported unless this torch counts references the way `surplus` reads them. Touches the CPU only."""
    with no_user_code(), torch.enable_grad():
        x = torch.ones(8, dtype=torch.float32, device="cpu", requires_grad=True)
        x.grad = torch.ones(8, dtype=torch.float32, device="cpu")
        exported = torch.ones(8, dtype=torch.float32, device="cpu")
        y = (x.exp() * x[::1]).sum()
        capsule = torch.utils.dlpack.to_dlpack(exported)
        found = walk([x, y, exported, exported[2:]], "cpu")
        inside = exported.untyped_storage()._cdata
        even = all(surplus(found, s) == 0 for key, s in found.storages.items() if key != inside)
        one_more = exported.untyped_storage().resizable() and surplus(found, exported.untyped_storage()) == 1
        if len(found.storages) < 5 or not even or not one_more:
            raise Unsupported(
                "This version of PyTorch counts references to tensors in a way not understood here."
            )
        del capsule
        if not any(o is exported for o in gc.get_referrers(torch.Tensor)):
            raise Unsupported("Python's garbage collector does not show this version of PyTorch's tensors.")
