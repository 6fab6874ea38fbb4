"""Trap table: tensors that the autograd graph holds, with or without Python knowing."""

from __future__ import annotations

from typing import Any

import torch
from holders import Holding, Place, warnings_allowed
from torch import nn
from torch.utils.checkpoint import checkpoint


def gradients_that_python_has_not_read(on: Place) -> Holding:
    """Of leaves, of non-leaves that retain theirs, and a second-order graph."""
    leaf, other = on.leaf(1), on.leaf(2)
    middle = leaf * 3
    middle.retain_grad()
    (middle**2).sum().backward()
    (first,) = torch.autograd.grad((other**3).sum(), other, create_graph=True)
    yield [leaf, middle, first]
    first.sum().backward()
    return [leaf.grad, middle.grad, other.grad]


def a_graph_that_hangs_on_a_host_tensor(on: Place) -> Holding:
    """Activations that nothing but the graph holds, which itself hangs on a loss on the CPU."""
    leaf = on.leaf()
    loss = leaf.exp().sin().mul(2).sum().cpu()
    yield [leaf]
    loss.backward()
    return [loss, leaf.grad]


def a_graph_of_which_only_a_node_is_kept(on: Place) -> Holding:
    """No tensor of the graph has a name: one of its holders cannot be named either."""
    leaf = on.leaf()
    node = leaf.exp().sin().grad_fn
    yield [leaf]
    gradient = node(on.ones(3000))
    return [gradient, node.next_functions[0][0](gradient)]


def a_graph_through_layers_of_every_kind(on: Place) -> Holding:
    """Convolution, batch norm, embedding, attention, indexing, cat and unbind, after forward and before backward."""
    torch.manual_seed(3)
    image = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    words, attention = (
        nn.Embedding(50, 16),
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0),
    )
    net = nn.ModuleList([image, words, attention]).to(on.device)
    seen = net[0](on.values().view(10, 1, 20, 15))
    read = net[2](net[1](torch.arange(12, device=on.device).view(3, 4)))
    a, b = read.view(2, -1).unbind()
    loss = torch.cat([seen.flatten(), a * b, read[:, [0, 2]].flatten()]).square().mean()
    yield [loss, *net.parameters(), *net.buffers()]
    loss.backward()
    return [p.grad for p in net.parameters()]


def recurrent_layers_and_their_flat_weights(on: Place) -> Holding:
    """LSTM and GRU, whose copies share nothing with them, between forward and backward."""
    torch.manual_seed(3)
    layers = [kind(8, 8, 2).to(on.device) for kind in (nn.LSTM, nn.GRU)]
    results = [layer(on.ones(3, 2, 8))[0] for layer in layers]
    parameters = [p for layer in layers for p in layer.parameters()]
    yield [*parameters, *results]
    torch.stack(results).square().sum().backward()
    return [p.grad for p in parameters]


def a_saved_variable_modified_in_place(on: Place) -> Holding:
    """Moved like the rest; backward complains of it in the same words."""
    result = torch.softmax(on.leaf(), 0)
    result[0] -= 1
    yield [result]
    try:
        result.sum().backward()
    except RuntimeError as error:
        complaint = str(error).replace("simgpuFloatType", "torch.FloatTensor").split("Hint")[0]
    return [complaint, result]


def a_slice_modified_in_place_within_the_graph(on: Place) -> Holding:
    """`x[a:b] *= y[a:b]`: the step's own saved variables lie in a node that Python cannot look into."""
    leaf, factor = on.leaf(1), on.leaf(2)
    result = leaf.clone()
    result[:1500] *= factor[:1500]
    yield [leaf, factor]
    result.sum().backward()
    return [result, leaf.grad, factor.grad]


class _Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Saves one tensor the official way and one as an attribute, beside a trap for whoever looks by name."""
        ctx.save_for_backward(x * 2, None)
        ctx.kept, ctx.variable = {"inside": [x * 3]}, "a user's own attribute"
        index = x.argsort()
        ctx.mark_non_differentiable(index)
        return x.clone(), index

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> torch.Tensor:
        """Uses both."""
        return gradient * ctx.saved_tensors[0] + ctx.kept["inside"][0]


def a_custom_autograd_function(on: Place) -> Holding:
    """With tensors saved by `save_for_backward`, and others in attributes of its ctx."""
    leaf = on.leaf()
    result, index = _Doubling.apply(leaf)
    yield [result, index]
    result.sum().backward()
    return [leaf.grad, index]


def hooks_and_what_they_close_over(on: Place) -> Holding:
    """Of tensors, leaves after accumulation and nodes; their calls are counted."""
    calls: list[str] = []
    leaf, scale = on.leaf(1), on.values(2)
    middle = leaf * 2

    def called(name: str, value: Any = None) -> Any:
        calls.append(name)
        return value

    middle.register_hook(lambda gradient: called("tensor", gradient * scale))
    leaf.register_post_accumulate_grad_hook(lambda p: called("leaf", None))
    middle.grad_fn.register_prehook(lambda gradients: called("before the node", (gradients[0] + scale,)))
    middle.grad_fn.register_hook(lambda *_: called("after the node"))
    result = middle.sin()
    yield [leaf, middle]
    before = list(calls)
    result.sum().backward()
    return [before, calls, leaf.grad]


def saved_tensor_hooks_of_the_users(on: Place) -> Holding:
    """Pack hooks that return tensors in tuples, dicts and objects; no unpack hook is called by looking."""
    calls: list[str] = []

    def unpack(packed: tuple[str, dict[str, torch.Tensor]]) -> torch.Tensor:
        calls.append("unpack")
        return packed[1]["it"]

    leaf = on.leaf()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: ("packed", {"it": t.clone()}), unpack):
        result = leaf.exp().sin()
    yield [result]
    before = list(calls)
    result.sum().backward()
    return [before, calls, leaf.grad]


def activation_checkpointing(on: Place) -> Holding:
    """Non-reentrant, whose unpack hook is a whole forward pass: it runs in backward, and at no other time."""
    calls: list[str] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        calls.append("forward")
        return (x * 2).exp().sin()

    leaf, other = on.leaf(1), on.leaf(2)
    result = checkpoint(forward, leaf * other, use_reentrant=False)
    yield [result]
    before = list(calls)
    result.sum().backward()
    return [before, calls, leaf.grad, other.grad]


def reentrant_activation_checkpointing(on: Place) -> Holding:
    """A custom Function that keeps the inputs and runs the forward again in backward."""
    calls: list[str] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        calls.append("forward")
        return (x * 2).exp().sin()

    leaf = on.leaf()
    result = checkpoint(forward, leaf * 3, use_reentrant=True)
    yield [result]
    before = list(calls)
    result.sum().backward()
    return [before, calls, leaf.grad]


def activations_saved_on_the_host(on: Place) -> Holding:
    """`save_on_cpu`: nothing of them is on the device, and nothing is unpacked to it by looking."""
    leaf = on.leaf()
    with torch.autograd.graph.save_on_cpu(pin_memory=on.gpu):
        result = (leaf * 2).exp().sin()
    yield [result]
    result.sum().backward()
    return [leaf.grad]


def tangents_of_forward_differentiation(on: Place) -> Holding:
    """A dual tensor within its level, which holds the tangent in C++."""
    import torch.autograd.forward_ad as forward

    primal, tangent = on.values(1), on.values(2)
    with forward.dual_level():
        with warnings_allowed():  # its first use compiles with TorchScript
            dual = forward.make_dual(primal, tangent)
        yield [primal, tangent]
        return [*forward.unpack_dual(dual.sin()), tangent]


def functions_made_by_torch_func(on: Place) -> Holding:
    """What `vjp` gives back to call later: its graph goes through a wrapper that C++ keeps."""
    primal, weight = on.values(1), on.values(2)
    value, pull_back = torch.func.vjp(lambda x: x.sin() * weight, primal)
    yield [weight]
    return [value, *pull_back(on.ones(3000))]


def closures_of_vmap_and_linearize(on: Place) -> Holding:
    """Functions of `torch.func` that keep tensors as plain Python does."""
    weight = on.values()
    batched = torch.func.vmap(lambda x: (x * weight).sum())
    with warnings_allowed():
        value, push = torch.func.linearize(lambda x: x.sin().exp(), on.values(2))
    yield [weight, value]
    return [batched(on.ones(2, 3000)), push(on.ones(3000))]


def anomaly_detection(on: Place) -> Holding:
    """`detect_anomaly` entered across cells: nodes carry tracebacks, and the graph is what it was."""
    leaf = on.leaf()
    with warnings_allowed():
        mode = torch.autograd.detect_anomaly(check_nan=False)
    with mode:
        result = leaf.exp().sin()
        yield [result]
        result.sum().backward()
    return [leaf.grad]
