"""What moving by hand loses in the middle of training: after the forward pass, before the backward pass."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

import torch

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.engine.rig import Rig
from jupyter_gpu_reclaim.bench.engine.witness import Witness

State = dict[str, Any]


def figures(rig: Rig, rounds: int) -> Iterator[Figure]:
    """How many of the 12 gradients are, bit for bit, those of a run that was never interrupted."""
    ours: list[float] = []
    for seed in range(rounds):
        expected = gradients(forward_done(rig.device, seed))
        state = forward_done(rig.device, seed)
        witness = Witness(lambda state=state: [p.data for p in state["module"].parameters()])
        rig.cycle()
        proof = witness.proof()
        ours.append(right(gradients(state), expected))
    name = f"right gradients of {len(expected)}, moved between forward and backward"
    yield proof.figure(f"{name}: ours", "", ours, at_least=len(expected))
    for way, move in (("torch.save and load", through_torch_save), ("pickle", through_pickle)):
        theirs = []
        for seed in range(rounds):
            expected = gradients(forward_done(rig.device, seed))
            theirs.append(right(gradients(move(forward_done(rig.device, seed))), expected))
        yield proof.figure(f"{name}: {way} (no error is raised)", "", theirs)


def forward_done(device: torch.device, seed: int) -> State:
    """A module of twelve parameters, its optimizer after one step, and the next loss with its graph."""
    torch.manual_seed(seed)
    module = torch.nn.Sequential(*(torch.nn.Linear(32, 32, device=device) for _ in range(6)))
    optimizer = torch.optim.Adam(module.parameters())
    data = torch.randn(8, 32, device=device)
    module(data).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return {"module": module, "optimizer": optimizer, "loss": module(data).square().mean()}


def gradients(state: State) -> list[torch.Tensor | None]:
    """What the notebook's next lines make of it: backward, and a step."""
    state["loss"].backward()
    found = [parameter.grad for parameter in state["module"].parameters()]
    state["optimizer"].step()
    return found


def right(found: list[torch.Tensor | None], expected: list[torch.Tensor | None]) -> int:
    """How many are there and equal, bit for bit."""
    return sum(
        a is not None and torch.equal(a.view(torch.int32), b.view(torch.int32))
        for a, b in zip(found, expected, strict=True)
    )


def through_torch_save(state: State) -> State:
    """The live objects to bytes and back, as its documentation has it."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def through_pickle(state: State) -> State:
    """The live objects to bytes and back."""
    return pickle.loads(pickle.dumps(state))
