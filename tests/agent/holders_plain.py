"""Trap table: tensors that Python knows, wherever it keeps them."""

from __future__ import annotations

import contextvars
import copy
import ctypes
import functools
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from holders import Holding, N, Place
from torch import nn


def storages_held_without_a_tensor(on: Place) -> Holding:
    """Only the storage objects are kept, untyped and typed."""
    untyped, typed = on.values(1).untyped_storage(), on.values(2).double()._typed_storage()
    yield [untyped, typed._untyped_storage]
    return [
        torch.empty(0, device=on.device).set_(untyped),
        torch.empty(0, device=on.device).double().set_(typed),
    ]


def views_and_aliases(on: Place) -> Holding:
    """Views of views, expanded, strided, tied and detached; written through one, read through the others."""
    base = on.values()
    matrix = base.view(50, 60)
    kept = [base, matrix, matrix[3:9, ::2], matrix.t(), matrix[:, :1].expand(50, 7), matrix.unfold(1, 5, 3)]
    kept += [*matrix.chunk(3), base.detach(), base.data, matrix[0].view(torch.int32)]
    yield kept
    matrix[4, 2] = 77.0
    return kept


def overlapping_windows_on_one_storage(on: Place) -> Holding:
    """`set_` and `as_strided`: tensors of several kinds over the same bytes, some over themselves."""
    base = on.values()
    storage = base.untyped_storage()
    kept = [base, torch.empty(0, device=on.device).set_(storage, 100, (20, 30), (7, 3))]
    kept += [torch.empty(0, dtype=torch.int16, device=on.device).set_(storage, 5, (50,), (2,))]
    kept += [base.as_strided((10, 10), (1, 1), 40), base.as_strided((1000,), (0,), 7)]
    yield kept
    kept[1].fill_(3)
    return kept


def every_kind_of_number(on: Place) -> Holding:
    """Bit patterns of every kind: NaNs with payloads, signed zeros, complex, half, bool, 8-bit floats, integers."""
    bits = torch.arange(-4000, 4000, dtype=torch.int64).mul(0x0123456789ABCDE)
    floats = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]
    others = [torch.complex64, torch.complex128, torch.int32, torch.int16, torch.int8, torch.uint8]
    kept = [on.put(bits.view(kind)) for kind in [*floats, *others]]
    kept += [on.put(bits), on.put(bits.gt(0)), kept[5].conj(), kept[5].imag, kept[6].real]
    kept += [pairs := on.put(bits.view(torch.float32).view(-1, 2)), torch.view_as_complex(pairs)[3:]]
    yield kept
    kept[5].mul_(2)
    return kept


def chains_of_complex_views(on: Place) -> Holding:
    """Conjugated, then real again; a part, then complex: C++ keeps the views in between, which Python cannot see."""
    base, pairs = on.values(1).view(-1, 2), on.values(2).view(-1, 2)
    base = torch.view_as_complex(base).clone()
    kept = [base, base.conj().imag, pairs, torch.view_as_complex(pairs[10:])]
    yield kept
    kept[1].mul_(3)
    return kept


def emptied_storages(on: Place) -> Holding:
    """Parameters whose storage their owner has emptied, as FSDP does: left empty, and filled again after."""
    sharded, view, full = nn.Parameter(on.values(1)), on.values(2), on.values(3)
    view = view[10:20]
    for emptied in (sharded, view):
        emptied.untyped_storage().resize_(0)
    yield [full]
    empty = [sharded.untyped_storage().nbytes(), view.untyped_storage().nbytes()]
    sharded.untyped_storage().resize_(4 * N)
    sharded.data.copy_(full)
    return [*empty, sharded, full]


class _Slotted:
    __slots__ = ("tensor",)


def closures_slots_generators_coroutines_caches(on: Place) -> Holding:
    """Closures, partials, defaults, slots, class attributes, generators, coroutines, caches, cells of ctypes."""
    box = _Slotted()
    box.tensor = on.values(1)
    closed = on.values(2)

    def closure() -> torch.Tensor:
        return closed

    def default(kept: torch.Tensor = on.values(3)) -> torch.Tensor:  # noqa: B008 (that is the corner)
        return kept

    def generator(kept: torch.Tensor) -> Iterator[torch.Tensor]:
        yield kept
        yield kept

    async def coroutine(kept: torch.Tensor) -> torch.Tensor:
        return kept

    @functools.lru_cache
    def cached(seed: int) -> torch.Tensor:
        return on.values(seed)

    cached(4)
    kind = type("Kind", (), {"tensor": on.values(5)})
    running, waiting = generator(on.values(6)), coroutine(on.values(7))
    next(running)
    partial = functools.partial(torch.add, on.values(8))
    cell = ctypes.py_object(on.values(9))
    yield []
    try:
        waiting.send(None)
    except StopIteration as end:
        awaited = end.value
    kept = [box.tensor, closure(), default(), cached(4), kind.tensor, next(running), awaited, partial(1.0)]
    return [*kept, cell.value]


def variables_of_threads_and_contexts(on: Place) -> Holding:
    """A context variable, a `threading.local` of this thread and one of an executor's idle thread."""
    variable: contextvars.ContextVar[torch.Tensor] = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    context.run(variable.set, on.values(1))
    local = threading.local()
    local.tensor = on.values(2)
    with ThreadPoolExecutor(1) as executor:
        executor.submit(lambda: setattr(local, "tensor", on.values(3))).result()
        yield []
        theirs = executor.submit(lambda: local.tensor).result()
    return [context[variable], local.tensor, theirs]


def weak_references(on: Place) -> Holding:
    """Tensors that are keys of weak dictionaries, and weakly referred to, by Python's ways and torch's."""
    from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

    key = on.values(1)
    notes, ids = WeakTensorKeyDictionary({key: on.values(2)}), WeakIdKeyDictionary({key: on.values(3)})
    reference, died = weakref.ref(key), []
    finalizer = weakref.finalize(key, died.append, "early")
    yield [key]
    alive = [reference() is key, finalizer.alive, len(notes), len(ids), list(died)]
    return [*alive, notes[key], ids[key]]


class _Cycle:
    def __init__(self, tensor: torch.Tensor, ended: list[str]):
        self.me, self.tensor, self.ended = self, tensor, ended

    def __del__(self) -> None:
        self.ended.append("collected")


def garbage_that_is_not_collected_yet(on: Place) -> Holding:
    """A cycle that nobody refers to any more: it is not collected on the way, for that would run its `__del__`."""
    ended: list[str] = []
    thresholds = gc.get_threshold()
    gc.set_threshold(0)  # no automatic collection
    try:
        _Cycle(on.values(), ended)
        yield []
        before = list(ended)
        gc.collect()
    finally:
        gc.set_threshold(*thresholds)
    return [before, ended]


def frames_of_a_live_exception(on: Place) -> Holding:
    """A traceback whose frames hold tensors, as after a failed cell."""

    def fails() -> None:
        hidden = on.values()
        raise ValueError(hidden.shape)

    try:
        fails()
    except ValueError as error:
        kept = error
    yield []
    return [kept.__traceback__.tb_next.tb_frame.f_locals["hidden"]]


def a_module_with_all_that_belongs_to_it(on: Place) -> Holding:
    """Parameters, buffers, lists and dicts of them, tied and frozen ones, hooks, a copy, a state dict."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20), nn.Linear(20, 20)).to(on.device)
    own = nn.Module()
    own.extra = nn.ParameterList(
        [nn.Parameter(on.values(1)), nn.Parameter(on.values(2), requires_grad=False)]
    )
    own.named = nn.ParameterDict({"a": own.extra[0]})
    net[2].weight = net[0].weight
    scale = on.ones(20) * 3
    net[0].register_forward_hook(lambda module, arguments, result: result * scale)
    net[1].register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * scale,))
    copied, saved = copy.deepcopy(net), net.state_dict()
    result = net(on.ones(4, 20))
    yield [
        *net.parameters(),
        *own.parameters(),
        *net.buffers(),
        *copied.parameters(),
        *saved.values(),
        result,
    ]
    result.square().sum().backward()
    return [*net.parameters(), *(p.grad for p in net.parameters()), *net.buffers(), *copied.parameters()]


def optimizers_schedulers_and_averages(on: Place) -> Holding:
    """A fused Adam with its steps and rate on the device, SGD with momentum, a schedule, an averaged model."""
    torch.manual_seed(3)
    nets = [nn.Linear(30, 30).to(on.device) for _ in range(2)]
    rate = torch.tensor(1e-2, device=on.device)
    optimizers = [
        torch.optim.Adam(nets[0].parameters(), lr=rate, fused=True),
        torch.optim.SGD(nets[1].parameters(), lr=0.1, momentum=0.9, nesterov=True),
    ]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[1], 10)
    average = torch.optim.swa_utils.AveragedModel(nets[0])

    def step() -> None:
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=False)
            net(on.ones(4, 30)).square().sum().backward()
            optimizer.step()
        schedule.step()
        average.update_parameters(nets[0])

    def state() -> list[Any]:
        inner = [v for o in optimizers for of_one in o.state.values() for v in of_one.values()]
        return [rate, *inner, *(p for net in [*nets, average] for p in [*net.parameters(), *net.buffers()])]

    step()
    yield state()
    step()
    return [*state(), schedule.get_last_lr()]


def parametrized_and_lazy_modules(on: Place) -> Holding:
    """Spectral and weight norm, whose weights are computed; a lazy layer that has no parameters yet."""
    torch.manual_seed(3)
    parametrizations = nn.utils.parametrizations
    net = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(20, 20).to(on.device)),
        parametrizations.weight_norm(nn.Linear(20, 20).to(on.device)),
        nn.LazyLinear(4, device=on.device),
    )
    result = net[:2](on.ones(3, 20))
    yield [result, *net[:2].parameters(), *net[:2].buffers()]
    result.sum().backward()
    torch.manual_seed(4)
    return [net(on.ones(3, 20)), *(p.grad for p in net[:2].parameters())]


def copies_of_page_locked_host_tensors(on: Place) -> Holding:
    """Page-locked, shared and plain host tensors are not touched themselves."""
    plain = Place().values()
    kinds = [plain.pin_memory() if on.gpu else plain.clone(), plain.clone().share_memory_(), plain]
    addresses = [t.data_ptr() for t in kinds]
    copied = kinds[0].to(on.device, copy=True, non_blocking=True)
    yield [copied]
    return [*kinds, copied, [t.data_ptr() for t in kinds] == addresses, kinds[0].is_pinned() == on.gpu]


def tensors_on_two_devices(on: Place) -> Holding:
    """The second device is nobody's current one."""
    first, second = on.values(1), on.values(2).to(on.device + ":1" if on.gpu else "cpu")
    yield [first, second]
    return [first.cpu() + second.cpu(), not on.gpu or [first.device.index, second.device.index] == [0, 1]]
