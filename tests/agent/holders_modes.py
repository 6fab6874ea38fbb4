"""Trap table: modes that a user has entered in one cell and not left, in the thread that moves the memory."""

from __future__ import annotations

from typing import Any

import torch
from holders import Holding, Place
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


def default_device_and_dtype(on: Place) -> Holding:
    """`set_default_device`, `set_default_dtype`: nothing of the move's own lands on the device or in doubles."""
    kept = [on.values(1), on.values(2).double()]
    on.in_this_thread()
    torch.set_default_device(on.device)
    torch.set_default_dtype(torch.float64)
    try:
        yield kept
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    return kept


def deterministic_fills(on: Place) -> Holding:
    """`use_deterministic_algorithms`, which fills fresh memory."""
    kept = [on.values()]
    on.in_this_thread()
    torch.use_deterministic_algorithms(True)
    try:
        yield kept
    finally:
        torch.use_deterministic_algorithms(False)
    return kept


class _FunctionMode(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts what passes."""
        self.seen += 1
        return function(*args, **(kwargs or {}))


def a_function_mode(on: Place) -> Holding:
    """A `TorchFunctionMode` of the user's: it sees nothing of the move."""
    kept = [on.values()]
    on.in_this_thread()
    with _FunctionMode() as mode:
        yield []
        seen = mode.seen
    return [seen, *kept]


class _DispatchMode(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts what passes."""
        self.seen += 1
        return function(*args, **(kwargs or {}))


def a_dispatch_mode(on: Place) -> Holding:
    """A `TorchDispatchMode` of the user's: it sees nothing of the move."""
    kept = [on.values()]
    on.in_this_thread()
    with _DispatchMode() as mode:
        yield []
        seen = mode.seen
    return [seen, *kept]


def inference_mode(on: Place) -> Holding:
    """Inference mode that is on, and tensors made in it, before and now."""
    with torch.inference_mode():
        before = on.values(1).mul(2)
    on.in_this_thread()
    with torch.inference_mode():
        now = on.values(2).mul(2)
        yield [before, now]
    return [before, now, before.is_inference(), now.is_inference()]


def gradients_switched_off(on: Place) -> Holding:
    """`set_grad_enabled(False)` left on, with a graph from before."""
    leaf = on.leaf()
    result = leaf.exp().sin()
    on.in_this_thread()
    torch.set_grad_enabled(False)
    try:
        yield [result]
    finally:
        torch.set_grad_enabled(True)
    result.sum().backward()
    return [leaf.grad]


def saved_tensor_hooks_left_on(on: Place) -> Holding:
    """`save_on_cpu` and hooks of the user's as the thread's default: they see nothing of the move."""
    leaf, calls = on.leaf(), []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        calls.append("pack")
        return tensor.clone()

    on.in_this_thread()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = leaf.exp().sin()
        yield [result]
        seen = len(calls)
    result.sum().backward()
    return [seen, leaf.grad]


def autocast_with_its_cache_of_weights(on: Place) -> Holding:
    """Mixed precision left on: C++ alone holds the cast weights, and stale casts are part of the user's state."""
    torch.manual_seed(3)
    layer, x = torch.nn.Linear(50, 60).to(on.device), on.ones(4, 50)
    with torch.autocast(on.device, dtype=torch.bfloat16):
        with torch.no_grad():
            first = layer(x)
        yield [x, first]
        with torch.no_grad():
            layer.weight.zero_()  # a cast weight in the cache is not cast again
            second = layer(x)
    return [first, second]


def a_functional_transform_under_way(on: Place) -> Holding:
    """`vmap` entered across cells, as a debugger's breakpoint leaves it: its batched tensors stay right."""
    weight = on.values()
    on.in_this_thread()
    with torch._functorch.vmap.vmap_increment_nesting(2, "error") as level:
        batched = torch._C._functorch._add_batch_dim(on.ones(2, 3000), 0, level) * weight
        yield []
        result = torch._C._functorch._remove_batch_dim(batched, level, 2, 0)
    return [result, weight]
