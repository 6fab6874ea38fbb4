"""Trap table: bytes that somebody outside Python and torch may point at."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
import types

import torch
from holders import Holding, Place, warnings_allowed
from torch import nn
from torch.utils.dlpack import to_dlpack


def a_capsule_that_nobody_has_consumed(on: Place) -> Holding:
    """DLPack: the bytes will be read by whoever consumes it."""
    tensor = on.values()
    capsule = to_dlpack(tensor)
    yield [tensor]
    return [tensor, torch.from_dlpack(capsule)]


def a_capsule_without_its_tensor(on: Place) -> Holding:
    """The exported tensor has no name any more; the capsule keeps it."""
    capsule = to_dlpack(on.values())
    yield []
    return [torch.from_dlpack(capsule)]


def a_consumer_of_a_view_of_a_parameter(on: Place) -> Holding:
    """Torch itself as the consumer: a second storage over bytes of the first; both stay."""
    parameter = nn.Parameter(on.values())
    consumer = torch.from_dlpack(to_dlpack(parameter.detach()[10:]))
    yield [parameter, consumer]
    with torch.no_grad():
        parameter.mul_(2)
    return [parameter.detach(), consumer]


class _Managed(ctypes.Structure):
    """The head of DLPack's DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
    )


def _consumed(capsule: object) -> tuple[_Managed, ctypes._CFuncPtr]:
    """What a library gets, and how it gives it back; the capsule is marked as used, as DLPack wants it."""
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
    at = api.PyCapsule_GetPointer(capsule, b"dltensor")
    api.PyCapsule_SetName(capsule, b"used_dltensor")
    deleter = ctypes.c_void_p.from_address(at + ctypes.sizeof(_Managed)).value
    return _Managed.from_address(at), lambda: ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deleter)(at)


def _lent(on: Place, address: int, nbytes: int) -> torch.Tensor:
    """A float tensor over memory that PyTorch's allocator does not know, as another library lends it."""
    storage = torch._C._construct_storage_from_data_pointer(address, on.ones().device, nbytes)
    return torch.empty(0, device=on.device).set_(storage)


def a_consumer_in_another_language(on: Place) -> Holding:
    """A library in C that took the capsule's bytes and reads them while the rest is away."""
    tensor = on.values()
    managed, give_back = _consumed(to_dlpack(tensor))
    yield [tensor]
    read = _lent(on, managed.data, 12000).clone()
    give_back()
    return [tensor, read]


def an_export_beside_complex_views(on: Place) -> Holding:
    """Views that hold their base twice do not hide that somebody else holds it too."""
    base = torch.view_as_complex(on.values().view(-1, 2)).clone()
    views, capsule = [base.conj(), base.imag, base.real], to_dlpack(base)
    yield [base, *views]
    return [torch.from_dlpack(capsule), *views]


def an_export_that_was_given_back(on: Place) -> Holding:
    """Once the consumer is done with it the bytes are the notebook's alone, and move."""
    tensor = on.values()
    _, give_back = _consumed(to_dlpack(tensor))
    give_back()
    yield [tensor]
    return [tensor]


def memory_lent_by_another_library(on: Place) -> Holding:
    """Bytes that PyTorch's allocator does not know, seen through a tensor: neither copied nor exchanged."""
    memory = (ctypes.c_float * 100)(*range(100))
    address = ctypes.addressof(memory)
    lent = _lent(on, address, 400)
    yield [lent]
    in_place = lent.data_ptr() == address
    lent.add_(1)
    return [in_place, list(memory)]


def what_was_shared_with_another_process(on: Place) -> Holding:
    """A storage that torch.multiprocessing remembers as sent or received; no other process can read this device."""
    from torch.multiprocessing.reductions import StorageWeakRef, shared_cache

    tensor = on.values()
    shared_cache["a handle"] = StorageWeakRef(tensor.untyped_storage())
    try:
        yield [tensor]
    finally:
        del shared_cache["a handle"]
    return [tensor]


class _Borrowed:
    """As CuPy keeps what it borrowed through `__cuda_array_interface__`: in a slot."""

    __slots__ = ("owner",)
    __module__ = "cupy.cuda.memory"


class _BorrowedAsAnAttribute:
    """As Numba and Warp do, each under a name of its own."""

    __module__ = "warp.types"

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor


class _Holder(type("PointerHolderBase", (), {"__module__": "pycuda._driver"})):
    """As PyCUDA has its users do: a class of their own, derived from one of its classes."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.whatever = tensor


class _Unhashable(type):
    __hash__ = None


class _Strange(metaclass=_Unhashable):
    """A class of the user's that cannot be put into a set, and does not know where it is from."""


del _Strange.__module__


def what_an_array_library_borrowed(on: Place) -> Holding:
    """`__cuda_array_interface__`, which this device has not: objects as its consumers keep the tensor.

    One has its attributes in a dict of its own, as all have before Python 3.11 and whoever was asked for `vars`.
    """
    tensors = [on.values(seed) for seed in range(4)]
    in_a_slot, plain, with_a_dict = _Borrowed(), *map(_BorrowedAsAnAttribute, tensors[1:3])
    in_a_slot.owner = tensors[0]
    kept = [in_a_slot, plain, with_a_dict, vars(with_a_dict), _Holder(tensors[3])]
    sys.modules["cupy"] = types.ModuleType("cupy")
    try:
        yield tensors
    finally:
        del sys.modules["cupy"]
    return [*tensors, len(kept)]


def tensors_beside_a_recorded_graph(on: Place) -> Holding:
    """A live `CUDAGraph` (this build cannot record one) may replay any address: nothing at all moves."""
    graph = object.__new__(torch.cuda.CUDAGraph)
    tensor = on.values()
    yield [tensor]
    del graph
    return [tensor]


def a_private_memory_pool(on: Place) -> Holding:
    """A segment of a pool of its own, as CUDA graphs and `MemPool` have: this device has none, so its list says so."""
    pooled = on.values()
    on.in_a_pool_of_its_own(pooled)
    yield [pooled]
    return [pooled]


def what_gc_freeze_hid(on: Place) -> Holding:
    """The collector does not show it, so it stays, and so does a later tensor that shares memory with it."""
    hidden, shared = on.values(1), on.values(2)
    gc.freeze()
    try:
        later, alias = on.values(3), shared.data
        yield [alias]
    finally:
        gc.unfreeze()
    return [hidden, shared, later, alias]


def _tripled(x: torch.Tensor) -> torch.Tensor:
    return x * 3


def _tripled_later(x: torch.Tensor) -> torch.jit.Future[torch.Tensor]:
    return torch.jit.fork(_tripled, x)


def a_result_that_only_an_extension_knows(on: Place) -> Holding:
    """C++ made it and holds it, and Python has never seen it."""
    argument = on.values()
    with warnings_allowed():
        future = torch.jit.script(_tripled_later)(argument)
    deadline = time.monotonic() + 60
    while not future.done():  # waiting for it, or adding a callback, would show the result to Python
        assert time.monotonic() < deadline
    yield [argument]
    with warnings_allowed():
        return [torch.jit.wait(future), argument]


def a_result_in_a_python_future(on: Place) -> Holding:
    """`torch.futures.Future` keeps it as a Python object."""
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(on.values())
    yield []
    return [future.wait()]
