"""Scenarios: a training loop that is offloaded and brought back, beside a twin that is left alone."""

from __future__ import annotations

import copy
import gc
from typing import Any

import torch
from torch import nn

DEVICE = "simgpu"


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Equal to the bit (NaNs and signs of zero included), in shape and in kind."""
    return len(left) == len(right) and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(
            a.detach().cpu().reshape(-1).view(torch.uint8), b.detach().cpu().reshape(-1).view(torch.uint8)
        )
        for a, b in zip(left, right, strict=True)
    )


class Training:
    """A small convolutional network with batch norm and dropout under Adam, and what users keep beside it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(8 * 36, 64),
            nn.LayerNorm(64),
            nn.GELU(),
            nn.Linear(64, 10),
        ).to(DEVICE)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2)
        self.tied = self.net[8].weight
        self.average = copy.deepcopy(self.net)
        self.alias = self.net[5].weight.data.view(-1)[10:20]
        self.columns = self.net[8].weight.detach()[:, ::2]
        self.losses: list[float] = []

    def step(self, number: int, cut: Any = lambda point: None) -> None:
        """One step of training, with `cut(point)` called at its three joints."""
        torch.manual_seed(100 + number)
        images, labels = torch.randn(16, 3, 8, 8).to(DEVICE), torch.randint(0, 10, (16,)).to(DEVICE)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.net(images), labels)
        cut("after forward")
        loss.backward()
        cut("after backward")
        self.optimizer.step()
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(now, 0.1)
        self.losses.append(loss.item())
        cut("between steps")

    def state(self) -> list[torch.Tensor]:
        """Everything that a wrong byte could be in."""
        tensors = [*self.net.parameters(), *self.net.buffers(), *self.average.parameters()]
        tensors += [p.grad for p in self.net.parameters() if p.grad is not None]
        tensors += [v for state in self.optimizer.state.values() for v in state.values()]
        return [*tensors, self.tied, self.alias, self.columns]


def _beside_a_twin(bench: Any, steps: int, cut: Any) -> dict[str, Any]:
    twin, subject = Training(), None
    for number in range(steps):
        twin.step(number)
    expected, losses = [t.detach().cpu().clone() for t in twin.state()], twin.losses
    del twin
    bench.clean()
    subject = Training()
    for number in range(steps):
        subject.step(number, cut)
    aliased = subject.alias.data_ptr() == subject.net[5].weight.data_ptr() + 40
    return {
        "losses_equal": subject.losses == losses,
        "tensors": len(expected),
        "tensors_equal": same(subject.state(), expected),
        "aliased": aliased and subject.tied is subject.net[8].weight,
        "learned": losses[-1] != losses[0],
    }


def every_cut_point(bench: Any) -> dict[str, Any]:
    """Offloads after each forward, each backward and each step."""
    results = []

    def cut(point: str) -> None:
        results.append(bench.offload())
        reserved = bench.reserved()
        bench.onload()
        results[-1] = (point, results[-1].moved_bytes, results[-1].unmovable, reserved)

    facts = _beside_a_twin(bench, 4, cut)
    return {**facts, "cycles": results}


def thirty_cycles(bench: Any) -> dict[str, Any]:
    """One cycle a step, thirty times, with what must not grow looked at after each."""
    host, reserved, needed, objects = [], [], [], []

    def cut(point: str) -> None:
        if point == "between steps":
            result = bench.cycle()
            host.append((result.host_bytes, bench.mechanism._host._bytes.data_ptr()))
            needed.append(sum(result.needed_bytes.values()))
            reserved.append(bench.reserved())
            if len(host) in (5, 30):
                gc.collect()
                objects.append(len(gc.get_objects()))

    facts = _beside_a_twin(bench, 30, cut)
    return {**facts, "host": host, "reserved": reserved, "needed": needed, "objects": objects}


def by_resize(bench: Any) -> dict[str, Any]:
    """The way for torch versions that cannot swap storages, through all cut points."""
    from jupyter_gpu_reclaim.agent.torch_offload.exchange import ByResize

    ordinary = bench.mechanism._engine._exchange
    bench.mechanism._engine._exchange = ByResize(bench.mechanism._accelerator)
    try:
        return every_cut_point(bench)
    finally:
        bench.mechanism._engine._exchange = ordinary
