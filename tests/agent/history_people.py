"""What people hold on GPUs, by random steps, each done twice: on the device, and on the CPU, whose memory nobody moves.

The simulated device computes with the CPU's kernels, so the two agree by themselves, to the bit.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from torch import nn

ANY = st.integers(0, 1 << 16)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.int64, torch.bool)
SIZES = (0, 1, 7, 300, 5000, 300_000)
AWAY = precondition(lambda self: self.away)
HERE = precondition(lambda self: not self.away)
HOLDING = precondition(lambda self: not self.away and self.pairs)

happened: Counter[str] = Counter()


class People(RuleBasedStateMachine):
    """`pairs`: (tensor on the device, its twin). `held`: what else keeps tensors. `away`: the bytes are on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.held: list[Any] = []
        self.exported = 0
        self.away = False

    @initialize(number=ANY)
    def begin(self, number: int) -> None:
        """Nobody's history begins with nothing."""
        self.make(number, 300, torch.float32, 0)
        self.compute(0, "chain")

    @HERE
    @rule(number=ANY, size=st.sampled_from(SIZES), dtype=st.sampled_from(DTYPES), device=st.integers(0, 1))
    def make(self, number: int, size: int, dtype: torch.dtype, device: int) -> None:
        """A fresh tensor, on one of two GPUs."""
        values = torch.randn(size, generator=torch.Generator().manual_seed(number)).mul(100)
        twin = values.to(dtype) if dtype is not torch.bool else values > 0
        grows = dtype.is_floating_point and number % 2 == 0
        mine = twin.to(f"simgpu:{device}").requires_grad_(grows)
        self.pairs.append((mine, twin.clone().requires_grad_(grows)))

    def _pick(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pairs[number % len(self.pairs)]

    def _both(self, number: int, act: Any) -> None:
        """`act` on a tensor and on its twin: both give a tensor, or both raise."""
        results = []
        for tensor in self._pick(number):
            try:
                results.append(act(tensor))
            except RuntimeError:
                results.append(None)
        mine, twin = results
        assert (mine is None) == (twin is None)
        if mine is not None:
            self.pairs.append((mine, twin))

    @HOLDING
    @rule(number=ANY, kind=st.sampled_from(("half", "stride", "detach", "alias", "data", "expand", "bytes")))
    def look_at(self, number: int, kind: str) -> None:
        """A view or another name of something that is there."""
        looks = {
            "half": lambda t: t[len(t) // 2 :],
            "stride": lambda t: t[::3],
            "detach": lambda t: t.detach(),
            "alias": lambda t: t,
            "data": lambda t: t.data,
            "expand": lambda t: t[:1].expand(5) if len(t) else t[:0],
            "bytes": lambda t: t.detach().view(torch.uint8),
        }
        if self._pick(number)[0].dim() == 1:
            self._both(number, looks[kind])

    @HOLDING
    @rule(number=ANY, kind=st.sampled_from(("chain", "square", "softmax", "retained", "checkpoint")))
    def compute(self, number: int, kind: str) -> None:
        """An operation whose graph keeps tensors that Python does not see."""

        def retained(t: torch.Tensor) -> torch.Tensor:
            result = t * 2
            if result.requires_grad:
                result.retain_grad()
            return result.exp()

        operations = {
            "chain": lambda t: t.sin().mul(2).cos(),
            "square": lambda t: t * t,
            "softmax": lambda t: torch.softmax(t, 0),
            "retained": retained,
            "checkpoint": lambda t: torch.utils.checkpoint.checkpoint(
                lambda x: x.sin().exp(), t, use_reentrant=False
            ),
        }
        if self._pick(number)[0].is_floating_point():
            self._both(number, operations[kind])

    @HOLDING
    @rule(number=ANY, keep=st.booleans())
    def backward(self, number: int, keep: bool) -> None:
        """Backward through whatever graph a tensor has; gradients appear on its leaves, or both complain."""
        complaints = []
        for tensor in self._pick(number):
            try:
                tensor.sum().backward(retain_graph=keep)
                complaints.append(None)
            except RuntimeError as error:
                complaints.append(type(error))
        assert complaints[0] == complaints[1]
        happened["backward"] += complaints[0] is None

    @HOLDING
    @rule(number=ANY)
    def write(self, number: int) -> None:
        """In place, through whatever name it has."""
        for tensor in self._pick(number):
            with torch.no_grad():
                if tensor.numel() and tensor.dtype is not torch.bool and 0 not in tensor.stride():
                    tensor.add_(1)

    @HERE
    @rule(number=ANY)
    def train(self, number: int) -> None:
        """A small model with its optimizer's state, one step taken, the next one begun."""
        torch.manual_seed(number)
        fresh, models = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), []
        for device in ("simgpu", "cpu"):
            model = copy.deepcopy(fresh).to(device)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
            inputs = torch.linspace(-1, 1, 24).view(4, 6).to(device)
            model(inputs).pow(2).mean().backward()
            optimizer.step()
            models.append((model, optimizer, model(inputs).pow(2).mean()))
        self.pairs.extend(zip(models[0][0].parameters(), models[1][0].parameters(), strict=True))
        self.pairs.append((models[0][2], models[1][2]))
        self.held.append(models)

    @HOLDING
    @rule(number=ANY, kind=st.sampled_from(("exception", "closure", "generator", "storage", "cycle")))
    def hold(self, number: int, kind: str) -> None:
        """Other ways to keep a tensor alive; the name in `pairs` goes away."""
        mine, twin = self.pairs.pop(number % len(self.pairs))
        holders: dict[str, Any] = {
            "exception": lambda t: _raised(t),
            "closure": lambda t: lambda: t,
            "generator": lambda t: _suspended(t),
            "storage": lambda t: t.untyped_storage(),
            "cycle": lambda t: _cycle(t),
        }
        self.held.append((holders[kind](mine), holders[kind](twin)))

    @HOLDING
    @rule(number=ANY)
    def export(self, number: int) -> None:
        """Somebody outside Python holds it, and may know its address."""
        tensor = self._pick(number)[0].detach()
        if tensor.dtype is not torch.bool and tensor.numel():
            self.held.append(torch.utils.dlpack.to_dlpack(tensor))
            self.exported += 1

    @HOLDING
    @rule(number=ANY)
    def forget(self, number: int) -> None:
        """The user deletes a name."""
        self.pairs.pop(number % len(self.pairs))

    @HERE
    @rule(number=ANY)
    def let_go(self, number: int) -> None:
        """A holder goes away, with what it held."""
        if self.held:
            self.held.pop(number % len(self.held))


def _raised(tensor: torch.Tensor) -> Exception:
    try:
        raise ValueError("keeps this frame")
    except ValueError as error:
        return error


def _suspended(tensor: torch.Tensor) -> Any:
    def numbers(own: torch.Tensor) -> Any:
        yield 1
        yield own

    generator = numbers(tensor)
    next(generator)
    return generator


def _cycle(tensor: torch.Tensor) -> dict[str, Any]:
    holder: dict[str, Any] = {"tensor": tensor}
    holder["self"] = holder
    return holder
