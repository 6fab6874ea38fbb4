"""Training on the simulated device: bit for bit the CPU's, or to rounding where torch computes otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from simgpu import run_on_simgpu

from jupyter_gpu_reclaim.sim.board import Board


def _train(device: str, optimizer: str, **options: Any) -> dict[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, groups=2),
        nn.GroupNorm(4, 16),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(16 * 6 * 6, 32),
        nn.LayerNorm(32),
        nn.GELU(),
        nn.Linear(32, 10),
    ).to(device)
    steps = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3, **options)
    draw = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(20):
        images = torch.randn(16, 3, 16, 16, generator=draw).to(device)
        labels = torch.randint(0, 10, (16,), generator=draw).to(device)
        steps.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        steps.step()
        losses.append(loss.item())
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    for number, values in steps.state_dict()["state"].items():
        state |= {f"{number}.{name}": value.cpu() for name, value in values.items() if torch.is_tensor(value)}
    return {"losses": losses, **state}


def _train_on_both(optimizer: str, options: dict[str, Any]) -> tuple[int, list[str]]:
    import torch

    here, there = _train("cpu", optimizer, **options), _train("simgpu", optimizer, **options)
    assert here.keys() == there.keys()
    same = {k: here[k] == there[k] if k == "losses" else torch.equal(here[k], there[k]) for k in here}
    return len(same), [name for name, equal in same.items() if not equal]


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("Adam", {}),
        ("Adam", {"fused": True}),
        ("AdamW", {"foreach": False}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_training_equals_the_cpu(sim_board: Board, optimizer: str, options: dict[str, Any]) -> None:
    """20 steps of a CNN with batch norm and dropout give the CPU's losses, weights, buffers and optimizer state."""
    compared, different = run_on_simgpu(sim_board, _train_on_both, optimizer, options)
    assert different == []
    assert compared > 20


def _recurrent(kind: str) -> float:
    import torch
    from torch import nn

    torch.manual_seed(0)
    here = getattr(nn, kind)(8, 16, num_layers=2, bidirectional=True)
    there = getattr(nn, kind)(8, 16, num_layers=2, bidirectional=True).to("simgpu")
    there.load_state_dict(here.state_dict())
    given = torch.randn(5, 3, 8)
    results = []
    for model, device in ((here, "cpu"), (there, "simgpu")):
        out, _ = model(given.to(device))
        out.square().sum().backward()
        results.append([out.detach().cpu(), *(p.grad.cpu() for p in model.parameters())])
    return max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_recurrent_layers_agree_with_the_cpu(sim_board: Board, kind: str) -> None:
    """Recurrent layers, which torch computes otherwise on accelerators, agree to rounding in results and gradients."""
    assert run_on_simgpu(sim_board, _recurrent, kind) < 1e-5
