"""The torch device: it computes as the CPU does, holds what the board allows, and fails as CUDA fails."""

from __future__ import annotations

from typing import Any

import pytest
from simgpu import run_on_simgpu

from jupyter_gpu_reclaim.sim.board import Board

# --- training


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
