"""What only CUDA has. Written against PyTorch's documented behaviour; NOT verified on hardware by this project's tests.

Everything here is optional: on another accelerator, or where a name is missing, it answers "nothing".
"""

import gc
import sys

import torch

_ARRAY_LIBRARIES = ("cupy", "numba.cuda", "pycuda", "warp", "cudf", "cuda.core")
_bases = type.__dict__["__mro__"].__get__
_module = type.__dict__["__module__"].__get__


def segments(memory_snapshot):
    """The allocator's segments, without the history of allocations that a profiling user may have switched on."""
    try:
        return memory_snapshot(include_traces=False)
    except TypeError:  # before torch 2.9 there is no such argument
        return memory_snapshot()


def graph_types():
    """Python types of recorded graphs: while one lives, raw addresses may be replayed behind every tensor's back."""
    found = [
        getattr(torch.cuda, "CUDAGraph", None),
        getattr(getattr(torch, "accelerator", None), "Graph", None),
    ]
    return tuple(t for t in found if isinstance(t, type))


def clear_workspaces(device_type):
    """Gives cuBLAS's scratch memory back to the allocator; cuBLAS takes it again when next used.

    To be called only while no graph lives: a graph may have recorded the workspace's address.
    """
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if device_type == "cuda" and clear is not None:
        clear()


def seen_through_array_interface(tensors):
    """ids of the tensors whose raw address a library took through `__cuda_array_interface__`.

    Such a library keeps the tensor itself alive, which no reference count tells from an ordinary variable, so look what
    its objects refer to. Only when such a library is loaded: it costs a pass over the whole heap.
    Tried and rejected: `gc.get_referrers(*tensors)`, whose time grows with the heap times the tensors.
    """
    if not tensors or not any(name in sys.modules for name in _ARRAY_LIBRARIES):
        return set()
    kinds = _kinds_of_libraries()
    held = set()
    for holder in [o for o in gc.get_objects() if id(type(o)) in kinds]:
        for referent in gc.get_referents(holder):
            held.add(id(referent))
            if type(referent) is dict:  # its attributes, where they lie in a dict of their own
                held.update(map(id, referent.values()))
    return held & {id(tensor) for tensor in tensors}


def _kinds_of_libraries():
    """ids of the array libraries' types and of all that are derived from them. Asks nothing of the user's."""
    seen, own, todo = {}, set(), [object]
    while todo:
        kind = todo.pop()
        if id(kind) not in seen:
            seen[id(kind)] = kind
            todo.extend(type.__subclasses__(kind))
            if _is_of_a_library(kind):
                own.add(id(kind))
    return {at for at, kind in seen.items() if any(id(base) in own for base in _bases(kind))}


def _is_of_a_library(kind):
    try:
        module = _module(kind)
    except AttributeError:  # a type may have been made without it
        return False
    return type(module) is str and module.startswith(_ARRAY_LIBRARIES)


def page_lock(address, nbytes):
    """Page-locks host memory for copies at full PCIe speed. Returns whether it is locked; memory stays usable if not.

    Costs about 0.4 s per GB once, and the memory can then not be swapped out: off unless asked for.
    """
    return int(torch.cuda.cudart().cudaHostRegister(address, nbytes, 0)) == 0


def page_unlock(address):
    """Undoes `page_lock`; to be called before the memory is given back."""
    torch.cuda.cudart().cudaHostUnregister(address)


def has_streams():
    """Whether this torch has what `side_stream` and `copy_on` need."""
    return hasattr(torch.cuda, "Stream") and hasattr(torch.cuda, "stream")


def side_stream(device):
    """A stream beside the one that everything else runs on."""
    return torch.cuda.Stream(device)


def copy_on(stream, targets, sources):
    """Copies on that stream, between its device and page-locked memory; returns when every byte is there."""
    with torch.cuda.stream(stream):
        torch._foreach_copy_(targets, sources, non_blocking=True)
    stream.synchronize()
