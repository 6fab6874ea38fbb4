"""Scenarios: every way in which bytes on the GPU can be held, and what becomes of them."""

from __future__ import annotations

import copy
import ctypes
import gc
import random
import sys
import time
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from offload_training import DEVICE, same
from torch import nn
from torch.utils.checkpoint import checkpoint

N = 3000


def _values(seed: int = 1, **options: Any) -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed)).to(DEVICE).requires_grad_(**options)


def _leaf(seed: int = 1) -> torch.Tensor:
    return _values(seed, requires_grad=True)


@contextmanager
def _deprecations_allowed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _moves(bench: Any, tensors: list[torch.Tensor]) -> dict[str, Any]:
    """Facts of one cycle with these tensors alive."""
    expected = [t.detach().cpu().clone() for t in tensors]
    versions = [t._version for t in tensors if not t.is_inference()]
    result = bench.cycle()
    return {
        "unmovable": result.unmovable,
        "moved_bytes": result.moved_bytes,
        "equal": same(tensors, expected),
        "versions_kept": versions == [t._version for t in tensors if not t.is_inference()],
    }


def storages_without_tensors(bench: Any) -> dict[str, Any]:
    """Only the storage objects are kept, untyped and typed."""
    untyped, typed = _values(1).detach().untyped_storage(), _values(2).detach().double()._typed_storage()
    facts = _moves(bench, [])
    back = [torch.empty(0, device=DEVICE).set_(untyped), torch.empty(0, device=DEVICE).double().set_(typed)]
    return {**facts, "equal": same(back, [_values(1).detach(), _values(2).detach().double()])}


def views_and_aliases(bench: Any) -> dict[str, Any]:
    """Views of views, expanded, strided, tied and detached; written through one, read through another."""
    base = _values().detach()
    matrix = base.view(50, 60)
    kept = [base, matrix, matrix[3:9, ::2], matrix.t(), matrix[:, :1].expand(50, 7), matrix.unfold(1, 5, 3)]
    kept += [*matrix.chunk(3), base.detach(), base.data, matrix[0].view(torch.int32)]
    facts = _moves(bench, kept)
    matrix[4, 2] = 77.0
    return {**facts, "shared": kept[2][1, 1].item() == 77.0 and base[242].item() == 77.0}


def every_dtype(bench: Any) -> dict[str, Any]:
    """Bit patterns of every kind: NaNs with payloads, signed zeros, complex, half, bool, 64-bit integers."""
    bits = torch.arange(-4000, 4000, dtype=torch.int64).mul(0x0123456789ABCDE)
    kinds = [
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.complex64,
        torch.int16,
        torch.uint8,
    ]
    tensors = [bits.view(kind).to(DEVICE) for kind in kinds] + [bits.to(DEVICE), bits.gt(0).to(DEVICE)]
    with torch.inference_mode():
        tensors.append(_values().mul(2))
    return _moves(bench, tensors)


def gradients(bench: Any) -> dict[str, Any]:
    """Gradients of leaves, of retained non-leaves, and a second-order graph, without Python having read them."""
    leaf = _leaf()
    middle = leaf * 3
    middle.retain_grad()
    (middle**2).sum().backward()
    other = _leaf(2)
    (first,) = torch.autograd.grad((other**3).sum(), other, create_graph=True)
    facts = _moves(bench, [leaf, middle, first])
    x = leaf.detach()
    first.sum().backward()
    gradients = [leaf.grad, middle.grad, other.grad]
    return {**facts, "gradients_equal": same(gradients, [3 * (2 * (3 * x)), 2 * (3 * x), 6 * other.detach()])}


def only_the_graph(bench: Any) -> dict[str, Any]:
    """Activations that nothing but the graph holds, which itself hangs on a CPU tensor."""
    leaf, twin = _leaf(), _leaf()
    losses = [t.exp().sin().mul(2).sum().cpu() for t in (leaf, twin)]
    losses[1].backward()
    facts = _moves(bench, [])
    losses[0].backward()
    return {**facts, "gradients_equal": same([leaf.grad], [twin.grad])}


def only_a_node(bench: Any) -> dict[str, Any]:
    """A graph that hangs on nothing but a node kept in a variable: one of its holders cannot be named."""
    leaf, twin = _leaf(), _leaf()
    node, twin_node = (t.exp().sin().grad_fn for t in (leaf, twin))
    result = bench.cycle()
    gradients = [torch.ones(N, device=DEVICE) for _ in range(2)]
    sines = [n(g) for n, g in zip((node, twin_node), gradients, strict=True)]
    exponents = [n.next_functions[0][0](g) for n, g in zip((node, twin_node), sines, strict=True)]
    return {"unmovable": result.unmovable, "equal": same([leaf, exponents[0]], [twin, exponents[1]])}


def _softmax_in_place(leaf: torch.Tensor) -> torch.Tensor:
    result = torch.softmax(leaf, 0)
    result[0] -= 1
    return result


def modified_in_place(bench: Any) -> dict[str, Any]:
    """A saved variable that was modified since: found all the same, and backward still complains as it did."""
    result = _softmax_in_place(_leaf())
    facts = _moves(bench, [result])
    complaint = ""
    try:
        result.sum().backward()
    except RuntimeError as error:
        complaint = str(error)
    return {**facts, "complaint": complaint}


class _Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Saves one tensor the official way and one as an attribute, beside a trap for whoever looks by name."""
        ctx.save_for_backward(x * 2)
        ctx.kept, ctx.variable = x * 3, "a user's own attribute"
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Uses both."""
        return gradient * ctx.saved_tensors[0] + ctx.kept


def custom_function(bench: Any) -> dict[str, Any]:
    """A custom autograd Function with saved tensors and attributes of its own."""
    leaf = _leaf()
    result = _Doubling.apply(leaf)
    facts = _moves(bench, [result])
    result.sum().backward()
    return {**facts, "gradients_equal": same([leaf.grad], [leaf.detach() * 2 + leaf.detach() * 3])}


def saved_tensor_hooks(bench: Any) -> dict[str, Any]:
    """Checkpointing (non-reentrant) and a pack hook of the user's: none of their code runs in the cycle."""
    calls = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        calls.append("forward")
        return (x * 2).exp().sin()

    def unpack(packed: tuple[str, torch.Tensor]) -> torch.Tensor:
        calls.append("unpack")
        return packed[1]

    pairs = [(_leaf(), _leaf(2)) for _ in range(2)]
    results = []
    for checkpointed, hooked in pairs:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: ("packed", t.clone()), unpack):
            results.append((checkpoint(forward, checkpointed, use_reentrant=False), hooked.exp().sin()))
    before = list(calls)
    facts = _moves(bench, [t for pair in results for t in pair])
    during = calls[len(before) :]
    for pair in results:
        (pair[0].sum() + pair[1].sum()).backward()
    gradients = [[t.grad for t in pair] for pair in pairs]
    return {**facts, "user_code_ran": during, "gradients_equal": same(*gradients)}


class _Forbidding(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        """No operation passes here."""
        raise RuntimeError("user code ran")

    @property
    def grad(self) -> Any:
        """Nor does looking."""
        raise RuntimeError("user code ran")

    device = dtype = grad_fn = untyped_storage = is_leaf = grad


class _Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _Wrapper:
        """A tensor without memory of its own."""
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        """No operation passes here either."""
        raise RuntimeError("user code ran")


def hostile_subclasses(bench: Any) -> dict[str, Any]:
    """Subclasses whose every method raises, and one that wraps another tensor."""
    plain, inner = _values(1).detach(), _values(2).detach()
    kept = [plain.as_subclass(_Forbidding), _Wrapper(inner)]
    facts = _moves(bench, [plain, inner])
    return {**facts, "kept": len(kept)}


class _Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts what passes."""
        self.seen = getattr(self, "seen", 0) + 1
        return function(*args, **(kwargs or {}))


def users_own_modes(bench: Any) -> dict[str, Any]:
    """Default device and dtype, inference mode, deterministic fills and a function mode of the user's."""
    tensors = [_values(1).detach(), _values(2).detach()]
    expected = [t.cpu().clone() for t in tensors]
    torch.set_default_device(DEVICE)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        with _Mode() as mode, torch.inference_mode():
            seen = getattr(mode, "seen", 0)
            result = bench.cycle()
            seen = getattr(mode, "seen", 0) - seen
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    facts = {
        "unmovable": result.unmovable,
        "moved_bytes": result.moved_bytes,
        "equal": same(tensors, expected),
    }
    return {**facts, "user_code_ran": seen}


def live_exception(bench: Any) -> dict[str, Any]:
    """A traceback whose frames hold tensors, as after a failed cell."""

    def fails() -> None:
        hidden = _values().detach()
        raise ValueError(hidden.shape)

    try:
        fails()
    except ValueError as error:
        kept = error
    facts = _moves(bench, [])
    frame = kept.__traceback__.tb_next.tb_frame
    return {**facts, "equal": same([frame.f_locals["hidden"]], [_values().detach()])}


def emptied_storages(bench: Any) -> dict[str, Any]:
    """A storage that its owner has emptied (as FSDP does) is left empty, and can be filled again after."""
    emptied, full = _values(1).detach(), _values(2).detach()
    emptied.untyped_storage().resize_(0)
    facts = _moves(bench, [full])
    return {**facts, "still_empty": emptied.untyped_storage().nbytes() == 0}


def two_gpus(bench: Any) -> dict[str, Any]:
    """Tensors on both devices, the second being nobody's current one."""
    first, second = _values(1).detach(), _values(2).detach().to(DEVICE + ":1")
    expected = [first.cpu(), second.cpu()]
    result = bench.offload()
    reserved = bench.reserved()
    bench.onload()
    return {
        "freed": result.freed_bytes,
        "needed": result.needed_bytes,
        "uuids": [gpu.uuid for gpu in bench.board.gpus()],
        "reserved": reserved,
        "devices": [str(first.device), str(second.device)],
        "allocated": {gpu["index"]: gpu["allocated_bytes"] for gpu in bench.mechanism.gpus().values()},
        "equal": same([first, second], expected),
    }


def sparse(bench: Any) -> dict[str, Any]:
    """The finder on CPU tensors (the simulated GPU knows no sparse ones): parts found, no holder unknown."""
    from jupyter_gpu_reclaim.agent.torch_offload.account import surplus
    from jupyter_gpu_reclaim.agent.torch_offload.find import no_user_code, walk

    dense = torch.eye(6)
    with _deprecations_allowed():  # "Sparse CSR tensor support is in beta state"
        kept = [dense.to_sparse(), dense.to_sparse_csr(), dense.to_sparse_csc()]
    embedding = nn.Embedding(9, 4, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with no_user_code():
        found = walk([*kept, embedding.weight], "cpu")
        return {
            "storages": len(found.storages),
            "surplus": sum(surplus(found, storage) for storage in found.storages.values()),
        }


def foreign_storage(address: int, nbytes: int, index: int = 0) -> torch.Tensor:
    """A float tensor over memory that PyTorch's allocator does not know, as another library lends it."""
    storage = torch._C._construct_storage_from_data_pointer(address, torch.device(DEVICE, index), nbytes)
    return torch.empty(0, device=DEVICE).set_(storage)


def lent_memory(bench: Any) -> dict[str, Any]:
    """Memory of another library stays where it is and does not stop the rest from moving."""
    own = _values().detach()
    memory = (ctypes.c_float * 100)(*range(100))
    lent = foreign_storage(ctypes.addressof(memory), 400)
    address = lent.data_ptr()
    facts = _moves(bench, [own])
    values = list(memory)
    return {**facts, "in_place": lent.data_ptr() == address and values == [float(i) for i in range(100)]}


def _stays(bench: Any, tensor: torch.Tensor) -> dict[str, Any]:
    """Facts of one cycle with a tensor that must stay, beside one that must go."""
    other, expected, address = _values(9).detach(), tensor.detach().cpu().clone(), tensor.data_ptr()
    result = bench.offload()
    stayed = tensor.data_ptr() == address and same([tensor], [expected])
    bench.onload()
    return {
        "unmovable": result.unmovable,
        "stayed": stayed and tensor.data_ptr() == address,
        "moved_bytes": result.moved_bytes,
        "other_equal": same([other], [_values(9).detach()]),
    }


def exported_capsule(bench: Any) -> dict[str, Any]:
    """A DLPack capsule that nobody has consumed yet."""
    tensor = _values().detach()
    capsule = torch.utils.dlpack.to_dlpack(tensor)
    facts = _stays(bench, tensor)
    consumer = torch.from_dlpack(capsule)
    return {**facts, "consumer_equal": same([consumer], [tensor])}


def exported_view(bench: Any) -> dict[str, Any]:
    """A consumer of a view of a parameter, whose Python objects are gone: the parameter stays."""
    parameter = nn.Parameter(_values().detach())
    consumer = torch.from_dlpack(torch.utils.dlpack.to_dlpack(parameter.detach()[10:]))
    facts = _stays(bench, parameter)
    return {**facts, "consumer_equal": same([consumer], [parameter.detach()[10:]])}


def process_shared(bench: Any) -> dict[str, Any]:
    """A storage that torch.multiprocessing remembers as shared with another process."""
    from torch.multiprocessing.reductions import StorageWeakRef, shared_cache

    tensor = _values().detach()
    shared_cache["a handle"] = StorageWeakRef(tensor.untyped_storage())
    try:
        return _stays(bench, tensor)
    finally:
        del shared_cache["a handle"]


class _BorrowedArray:
    """As a library keeps what it borrowed through `__cuda_array_interface__`."""

    __slots__ = ("owner",)
    __module__ = "cupy.cuda.memory"


def array_interface(bench: Any) -> dict[str, Any]:
    """A tensor that an array library keeps, having read its address."""
    tensor = _values().detach()
    array = _BorrowedArray()
    array.owner = tensor
    sys.modules["cupy"] = types.ModuleType("cupy")
    try:
        return _stays(bench, tensor)
    finally:
        del sys.modules["cupy"]


def recorded_graph(bench: Any) -> dict[str, Any]:
    """While any CUDA graph lives nothing moves: it may replay any address."""
    from jupyter_gpu_reclaim.agent.torch_offload import NothingToMove

    graph = object.__new__(torch.cuda.CUDAGraph)  # this build of torch cannot record one
    tensor = _values().detach()
    address = tensor.data_ptr()
    try:
        bench.offload()
    except NothingToMove as refusal:
        unmovable = refusal.unmovable
    del graph
    stayed = tensor.data_ptr() == address
    return {"unmovable": unmovable, "stayed": stayed, "moves_without": bench.cycle().moved_bytes}


def private_pool(bench: Any) -> dict[str, Any]:
    """The judgement of blocks: one in a private pool, one with an owner that moves, one nobody owns."""
    from jupyter_gpu_reclaim.agent.torch_offload.accelerator import Block
    from jupyter_gpu_reclaim.agent.torch_offload.account import _by_address, _placed
    from jupyter_gpu_reclaim.agent.torch_offload.find import no_user_code, walk

    pooled, plain = _values(1).detach(), _values(2).detach()
    with no_user_code():
        placed = _placed(walk([pooled, plain], DEVICE))
        blocks = [Block(0, pooled.data_ptr(), 12288, True), Block(0, plain.data_ptr(), 12288, False)]
        reasons: dict[int, str] = {}
        unmovable, unexplained, staying = _by_address(placed, reasons, [*blocks, Block(1, 4096, 512, False)])
    return {
        "unmovable": dict(unmovable),
        "unexplained_bytes": unexplained,
        "staying": staying == {(0, pooled.data_ptr()), (1, 4096)},
        "pooled": reasons.get(pooled.untyped_storage()._cdata),
        "plain": reasons.get(plain.untyped_storage()._cdata),
    }


def reservations(bench: Any) -> dict[str, Any]:
    """Storages of all sizes on an empty device: what `needed_bytes` says, and what coming back then takes."""
    generator = random.Random(7)
    kept = [
        torch.empty(int(2 ** generator.uniform(4, 23.5)), dtype=torch.uint8, device=DEVICE)
        for _ in range(200)
    ]
    kept.append(torch.empty((25 << 20) + 1, dtype=torch.uint8, device=DEVICE))
    result = bench.cycle()
    return {"needed": sum(result.needed_bytes.values()), "taken": bench.reserved(), "moved": len(kept)}


def torchscript(bench: Any) -> dict[str, Any]:
    """A live scripted module: C++ holds its parameters, so they stay, and it computes as before."""
    with _deprecations_allowed():
        module = torch.jit.script(nn.Linear(30, 30)).to(DEVICE)
    before = module(torch.ones(2, 30, device=DEVICE)).detach().cpu()
    facts = _stays(bench, module.weight)
    after = module(torch.ones(2, 30, device=DEVICE)).detach().cpu()
    return {**facts, "consumer_equal": same([before], [after])}


def _tripled(x: torch.Tensor) -> torch.Tensor:
    return x * 3


def _tripled_later(x: torch.Tensor) -> torch.jit.Future[torch.Tensor]:
    return torch.jit.fork(_tripled, x)


def unknown_to_python(bench: Any) -> dict[str, Any]:
    """A result that C++ made and holds, and Python has never seen: unexplained, left in place, and right after."""
    other, argument = _values(9).detach(), _values().detach()
    with _deprecations_allowed():
        future = torch.jit.script(_tripled_later)(argument)
    deadline = time.monotonic() + 60
    while not future.done():  # waiting for it, or adding a callback, would show the result to Python
        assert time.monotonic() < deadline
    result = bench.cycle()
    with _deprecations_allowed():
        outcome = torch.jit.wait(future)
    return {
        "unmovable": result.unmovable,
        "unexplained_bytes": result.unexplained_bytes,
        "equal": same([outcome, other], [argument * 3, _values(9).detach()]),
    }


def collector_frozen(bench: Any) -> dict[str, Any]:
    """After gc.freeze(): what it hid is left, and said; what came later moves, unless a hidden tensor shares it."""
    hidden, shared = _values(1).detach(), _values(2).detach()
    gc.freeze()
    try:
        later, alias = _values(3).detach(), shared.data
        facts = _stays(bench, alias)
        equal = same([hidden, shared, later], [_values(i).detach() for i in (1, 2, 3)])
    finally:
        gc.unfreeze()
    return {**facts, "hidden_equal": equal}


def deepcopied_model(bench: Any) -> dict[str, Any]:
    """Recurrent and attention layers with their graphs, deep copies and an LSTM's flat weights: all of it moves."""
    lstm, layer = nn.LSTM(8, 8).to(DEVICE), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).to(DEVICE)
    copies = copy.deepcopy(lstm)
    outputs = [lstm(torch.ones(3, 2, 8, device=DEVICE))[0], layer(torch.ones(2, 3, 16, device=DEVICE))]
    return _moves(bench, [*outputs, *lstm.parameters(), *layer.parameters(), *copies.parameters()])
