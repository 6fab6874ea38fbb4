"""Operator by operator: the device gives the CPU's values, shapes and strides, to the bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from simgpu import run_on_simgpu

from jupyter_gpu_reclaim.sim.board import Board


def _cases() -> dict[str, Callable[[str], Any]]:
    """Each takes a device and gives tensors or plain values."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def square(d: str) -> Any:
        return torch.arange(9.0).view(3, 3).to(d)

    def then(x: Any, act: Callable[[Any], Any]) -> Any:
        """`x` and what the act gave: for acts that change `x` in place."""
        return [act(x), x]

    def layer(module: Any, shape: tuple[int, ...], d: str) -> Any:
        x = torch.rand(shape).to(d).requires_grad_()
        y = module.to(d)(x)
        y.square().sum().backward()
        return [y.detach(), x.grad, *(p.grad for p in module.parameters()), *module.buffers()]

    def loss(name: str, kind: str, d: str) -> Any:
        x = torch.rand(4, 5).to(d).requires_grad_()
        y = getattr(F, name)(x, torch.rand(4, 5).to(d), reduction=kind)
        y.sum().backward()
        return [y.detach(), x.grad]

    return {
        # in place, on the shape itself
        "t_": lambda d: square(d).t_(),
        "transpose_": lambda d: square(d).transpose_(0, 1),
        "squeeze_": lambda d: square(d).unsqueeze(0).squeeze_(),
        "as_strided_": lambda d: square(d).as_strided_((2, 2), (3, 1), 1),
        "resize_": lambda d: square(d).resize_(2, 2),
        # in place, on values, through views
        "slice": lambda d: then(square(d), lambda x: x[1:].mul_(2)),
        "split": lambda d: then(square(d), lambda x: [part.add_(1) for part in x.split(1)]),
        "masked_fill_": lambda d: square(d).masked_fill_(square(d) > 4, 0),
        "index_put_": lambda d: square(d).index_put_(
            (torch.tensor([0, 2], device=d),), torch.ones(3, device=d)
        ),
        "index by the host": lambda d: square(d)[torch.tensor([0, 2])],
        "scatter_": lambda d: torch.zeros(3, 3, device=d).scatter_(
            1, torch.tensor([[0], [2]], device=d), square(d)
        ),
        "cumsum into itself": lambda d: then(square(d), lambda x: torch.cumsum(x, 0, out=x)),
        "foreach": lambda d: then([square(d), square(d)], lambda xs: torch._foreach_mul_(xs, 2.0)),
        "data": lambda d: then(nn.Parameter(square(d)), lambda p: setattr(p, "data", square(d) + 1)),
        # out=
        "out, resized": lambda d: torch.add(square(d), 1, out=torch.empty(0, device=d)),
        "out, strided": lambda d: torch.add(square(d), 1, out=torch.zeros(3, 3, device=d).t()),
        "out, a view": lambda d: then(
            torch.zeros(3, 6, device=d), lambda x: torch.add(square(d), 1, out=x[:, 1:4])
        ),
        "out, two": lambda d: list(
            torch.sort(square(d), out=(torch.empty(0, device=d), torch.empty(0, dtype=torch.long, device=d)))
        ),
        # views
        "unbind": lambda d: list(square(d).unbind(1)),
        "unfold": lambda d: square(d).unfold(0, 2, 1),
        "expand": lambda d: square(d).expand(2, 3, 3),
        "diagonal": lambda d: square(d).diagonal(),
        "view of another type": lambda d: square(d).view(torch.int32),
        "real part": lambda d: torch.view_as_complex(square(d)[:, :2].contiguous()).real,
        "conjugate": lambda d: torch.view_as_complex(square(d)[:, :2].contiguous()).conj() * 2,
        "conjugate, copied": lambda d: (
            torch.view_as_complex(square(d)[:, :2].contiguous()).conj().clone().cpu()
        ),
        "negative, copied": lambda d: (
            torch.view_as_complex(square(d)[:, :2].contiguous()).conj().imag.clone().cpu()
        ),
        # copies
        "transposed": lambda d: square(d).t().contiguous(),
        "channels last": lambda d: torch.rand(2, 3, 4, 4).to(d).to(memory_format=torch.channels_last),
        "another type": lambda d: torch.zeros(3, 3, dtype=torch.half, device=d).copy_(square(d)),
        "broadcast": lambda d: torch.zeros(3, 3, device=d).copy_(torch.arange(3.0)),
        # random numbers
        "dropout": lambda d: F.dropout(torch.ones(50, device=d), 0.5),
        "randn": lambda d: torch.randn(5, device=d),
        "randperm": lambda d: torch.randperm(9, device=d),
        "bernoulli": lambda d: torch.bernoulli(torch.full((9,), 0.5, device=d)),
        "multinomial": lambda d: torch.multinomial(torch.ones(9, device=d), 3),
        # layers: values, gradients, and running statistics that the schema does not announce
        "batch norm": lambda d: layer(nn.BatchNorm2d(3), (2, 3, 4, 4), d),
        "batch norm, cumulative": lambda d: layer(nn.BatchNorm2d(3, momentum=None), (2, 3, 4, 4), d),
        "instance norm": lambda d: layer(nn.InstanceNorm1d(3, track_running_stats=True), (2, 3, 5), d),
        "group norm": lambda d: layer(nn.GroupNorm(2, 4), (2, 4, 5), d),
        "layer norm": lambda d: layer(nn.LayerNorm(5), (2, 4, 5), d),
        "conv, depthwise": lambda d: layer(nn.Conv2d(4, 4, 3, groups=4, padding=1), (2, 4, 5, 5), d),
        "conv, dilated": lambda d: layer(nn.Conv1d(4, 4, 3, padding="same", dilation=2), (2, 4, 9), d),
        "conv, transposed": lambda d: layer(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5), d),
        "pooling": lambda d: layer(nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)), (2, 3, 8, 8), d),
        "interpolation": lambda d: layer(nn.Upsample(scale_factor=2, mode="bilinear"), (1, 1, 4, 4), d),
        "embedding": lambda d: nn.Embedding(5, 3).to(d)(torch.tensor([1, 4], device=d)).detach(),
        # losses, as a mean and one by one
        **{
            f"{name}, {kind}": lambda d, name=name, kind=kind: loss(name, kind, d)
            for name in ("mse_loss", "smooth_l1_loss", "huber_loss", "l1_loss")
            for kind in ("mean", "none")
        },
        # linear algebra and signals
        "matrix product": lambda d: square(d).t() @ square(d),
        "solve": lambda d: torch.linalg.solve(square(d) + 9 * torch.eye(3, device=d), square(d)),
        "svd": lambda d: list(torch.linalg.svd(square(d))),
        "stft": lambda d: torch.stft(
            torch.arange(64.0).to(d), 16, return_complex=True, window=torch.ones(16, device=d)
        ),
        # values for the host
        "item": lambda d: square(d)[1, 1].item(),
        "tolist": lambda d: square(d).t().tolist(),
        "equal": lambda d: torch.equal(square(d), square(d)),
        "unique": lambda d: list(torch.unique(square(d) > 4, return_counts=True)),
        "a host scalar": lambda d: square(d) * torch.tensor(2.0),
    }


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _compare() -> tuple[int, list[str]]:
    import torch

    def same(here: Any, there: Any) -> bool:
        if not torch.is_tensor(here):
            return type(here) is type(there) and here == there
        return torch.equal(here, there.cpu()) and (here.dtype, here.stride()) == (there.dtype, there.stride())

    different = []
    for name, case in _cases().items():
        results = []
        for device in ("cpu", "simgpu"):
            torch.manual_seed(3)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                results.append([*_flat(case(device)), *(str(w.message) for w in warned)])
        if not all(map(same, *results)) or len(results[0]) != len(results[1]):
            different.append(name)
    return len(_cases()), different


def test_operators_equal_the_cpus(sim_board: Board) -> None:
    """Views, in-place and out= forms, copies, random draws, layers, losses: the CPU's result, as silent."""
    compared, different = run_on_simgpu(sim_board, _compare)
    assert different == []
    assert compared > 50
