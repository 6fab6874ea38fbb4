"""Trap table: tensors within tensors: sparse ones, subclasses, wrappers, quantised attributes, scripted modules."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from holders import Holding, Place, warnings_allowed
from torch import nn


class _Forbidding(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        """No operation passes here."""
        raise RuntimeError("user code ran")

    @property
    def grad(self) -> Any:
        """Nor does looking."""
        raise RuntimeError("user code ran")

    device = dtype = grad_fn = untyped_storage = is_leaf = data_ptr = grad


class _Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _Wrapper:
        """A tensor without memory of its own."""
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    def __tensor_flatten__(self) -> Any:
        """No one is to ask."""
        raise RuntimeError("user code ran")

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        """No operation passes here either."""
        raise RuntimeError("user code ran")


def subclasses_whose_every_method_raises(on: Place) -> Holding:
    """One with bytes of its own and one that wraps another tensor: neither is asked anything."""
    plain, inner = on.values(1), on.values(2)
    kept = [plain.as_subclass(_Forbidding), _Wrapper(inner)]
    yield [plain, inner]
    return [plain, kept[1].inner]


def wrapper_subclasses(on: Place) -> Holding:
    """`__tensor_flatten__`: two tensors in one, a masked tensor, and the graph that was built on them."""
    from torch.masked import masked_tensor
    from torch.testing._internal.two_tensor import TwoTensor

    both = TwoTensor(on.values(1), on.values(2)).requires_grad_()
    with warnings_allowed():
        masked = masked_tensor(on.values(3), on.values(4) > 0)
    result = both.sin().exp()
    yield [both.a, both.b]
    result.sum().backward()
    return [both.grad.a, both.grad.b, masked.get_data(), masked.get_mask()]


def sparse_tensors(on: Place) -> Holding:
    """COO, CSR and CSC: their indices and values are tensors that C++ alone has, as is a sparse gradient."""
    torch.manual_seed(3)
    dense = on.values()[:900].view(30, 30)
    with warnings_allowed():
        kept = [
            dense.to_sparse(),
            dense.to_sparse_csr(),
            dense.to_sparse_csc(),
            dense.to_sparse().requires_grad_(),
        ]
    table = nn.Embedding(50, 30, sparse=True).to(on.device)
    table(torch.tensor([3, 1, 3], device=on.device)).square().sum().backward()
    right = on.leaf(2)
    product = torch.sparse.mm(kept[3], right.view(30, 100))
    yield [dense, table.weight]
    product.square().sum().backward()
    gradients = [kept[3].grad, table.weight.grad]
    parts = [part for coo in [kept[0], *gradients] for part in (coo._indices(), coo._values())]
    parts += [kept[1].crow_indices(), kept[1].col_indices(), kept[1].values(), kept[2].to_dense()]
    return [*(part.clone() for part in parts), right.grad]


def sparse_tensors_that_share_their_parts(on: Place) -> Holding:
    """A sparse tensor and what `detach` made of it: one set of parts in C++, which Python sees as two."""
    whole = on.values()[:900].view(30, 30).to_sparse()
    detached = whole.detach()
    yield []
    detached._values().mul_(2)
    return [whole.to_dense(), detached._indices().clone()]


@contextmanager
def _mesh(on: Place) -> Iterator[Any]:
    """A mesh of one process."""
    import torch.distributed as distributed
    from torch.distributed.tensor import init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh(on.device, (1,))
    finally:
        distributed.destroy_process_group()


def distributed_tensors(on: Place) -> Holding:
    """`DTensor` over a mesh of one: the shard in it moves, its gradient too."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    with _mesh(on) as mesh:
        kept = DTensor.from_local(on.values(1), mesh, [Shard(0)], run_check=False).requires_grad_()
        whole = DTensor.from_local(on.values(2), mesh, [Replicate()], run_check=False)
        result = (kept * whole).sin()
        yield [kept.to_local(), whole.to_local()]
        result.sum().backward()
        return [kept.grad.to_local(), result.to_local()]


def a_fully_sharded_module(on: Place) -> Holding:
    """FSDP2 between forward and backward: shards, and gathered weights whose storages it has emptied."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 4)).to(on.device)
    with _mesh(on) as mesh:
        for part in (net[0], net):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
        result = net(on.ones(2, 30))
        yield [result, *(p.to_local() for p in net.parameters())]
        result.square().sum().backward()
        return [t.to_local() for p in net.parameters() for t in (p, p.grad)]


def compiled_functions_and_exported_programs(on: Place) -> Holding:
    """A function compiled with AOTAutograd, between forward and backward, and a program exported with its weights."""
    torch.manual_seed(3)
    leaf, layer = on.leaf(), nn.Linear(30, 30).to(on.device)
    result = torch.compile(lambda x: (x * 2).sin() * x, backend="aot_eager")(leaf)
    program = torch.export.export(layer, (on.ones(2, 30),))
    yield [result]
    result.sum().backward()
    return [leaf.grad, program.module()(on.ones(2, 30))]


def nested_tensors(on: Place) -> Holding:
    """Jagged ones: the values' tensor and the offsets' are also held by the view that C++ made of them."""
    nested = torch.nested.nested_tensor(
        [torch.ones(200, 3), torch.ones(300, 3)], layout=torch.jagged, device=on.device
    )
    result = nested * 2
    yield []
    return [result.values().clone(), nested.values().clone(), nested.offsets().clone()]


class _Packed:
    """As quantising libraries keep what belongs to a weight: plain attributes of a parameter's own object."""

    def __init__(self, on: Place) -> None:
        self.absmax, self.code = on.values(5).abs(), on.values(6)
        self.nested = {"offset": on.values(7), "state": [on.values(8)]}


def quantised_attributes(on: Place) -> Holding:
    """4-bit codes in a uint8 parameter with a `quant_state` of tensors, and scales beside int8 weights."""
    packed = nn.Parameter(on.values(1).view(torch.uint8).clone(), requires_grad=False)
    packed.quant_state = _Packed(on)
    layer = nn.Module()
    layer.register_buffer("weight", on.values(2).mul(20).to(torch.int8))
    layer.scales, layer.zero_points = on.values(3), on.values(4).mul(5).to(torch.int32)
    yield [packed, *layer.buffers()]
    state = packed.quant_state
    kept = [packed, state.absmax, state.code, state.nested["offset"], *state.nested["state"]]
    return [*kept, layer.weight, layer.scales, layer.zero_points]


def a_live_scripted_module(on: Place) -> Holding:
    """`torch.jit.script` of a module that is there too: C++ holds its parameters, each in one named place."""
    torch.manual_seed(3)
    with warnings_allowed():
        module = torch.jit.script(nn.Sequential(nn.Linear(30, 30), nn.BatchNorm1d(30))).to(on.device)
    before = [module(on.ones(2, 30)) for _ in range(3)]
    yield [*module.parameters(), *module.buffers()]
    result = module(on.ones(2, 30))
    result.sum().backward()
    return [*before, result, *(p.grad for p in module.parameters())]


def a_scripted_module_loaded_from_a_file(on: Place) -> Holding:
    """`torch.jit.load`: parameters, buffers and attributes that Python has never seen."""
    torch.manual_seed(3)
    with warnings_allowed():
        torch.jit.save(
            torch.jit.script(nn.Sequential(nn.Linear(30, 30), nn.BatchNorm1d(30))), file := io.BytesIO()
        )
        file.seek(0)
        module = torch.jit.load(file, map_location=on.device).eval()
        before = [module(on.ones(2, 30)) for _ in range(3)]
    yield []
    return [*before, module(on.ones(2, 30)), *module.parameters(), *module.buffers()]


def a_traced_module(on: Place) -> Holding:
    """`torch.jit.trace`: as the scripted one."""
    torch.manual_seed(3)
    with warnings_allowed():
        module = torch.jit.trace(nn.Linear(30, 30).to(on.device), on.ones(2, 30))
    yield [*module.parameters()]
    return [module(on.ones(2, 30)), *module.parameters()]


def a_frozen_scripted_module(on: Place) -> Holding:
    """`torch.jit.freeze`: the weights are constants of a graph, of which the executor keeps copies."""
    torch.manual_seed(3)
    with warnings_allowed():
        module = torch.jit.freeze(torch.jit.script(nn.Linear(50, 60).eval()).to(on.device))
    before = [module(on.ones(2, 50)) for _ in range(3)]
    yield []
    return [*before, module(on.ones(2, 50))]


def a_traced_function(on: Place) -> Holding:
    """What it closes over is a constant of its graph."""
    weight = on.values()
    with warnings_allowed():
        function = torch.jit.trace(lambda x: x * weight, on.values(2))
    yield [weight]
    return [function(on.values(3)), weight]
