"""Random histories of a process: what people hold on GPUs, and moves that succeed, fail and are repeated, in any order.

The device's tensors must equal their twins on the CPU, to the bit, whenever they can be looked at.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import torch
from history_people import AWAY, HOLDING, People, happened
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from offload_process import Bench

from jupyter_gpu_reclaim.agent import torch_offload
from jupyter_gpu_reclaim.agent.torch_offload import batches
from jupyter_gpu_reclaim.sim.environment import BOARD_VARIABLE

FAILED = 999  # the scripted fault's code
_bench: list[Bench] = []


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes, on the CPU."""
    tensor = tensor.detach().cpu()
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.reshape(-1))
    return plain.view(torch.uint8)


def sharing(tensors: list[torch.Tensor]) -> list[tuple[Any, ...]]:
    """How each looks at its memory, and which of them share it."""
    first: dict[int, int] = {}
    return [
        (
            first.setdefault(t.untyped_storage()._cdata, i),
            tuple(t.shape),
            t.stride(),
            t.storage_offset(),
            t._version,
            t.requires_grad,
        )
        for i, t in enumerate(tensors)
    ]


class Histories(People):
    """What is done to the memory of what people hold."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = _bench[0]
        gc.collect()  # what is left of the last history must not be part of this one
        happened["histories"] += 1

    @HOLDING
    @rule()
    def offload(self) -> None:
        """Everything leaves, or says why it stays; `Bench.offload` compares the allocator with the reasons."""
        try:
            result = self.bench.offload()
        except torch_offload.NothingToMove:
            happened["nothing to move"] += 1
            return
        assert result.unexplained_bytes == 0
        assert self.exported or not result.unmovable, result.unmovable
        happened["offloads"] += 1
        happened["left something"] += bool(result.unmovable)
        self.away = True

    @HOLDING
    @rule(after=st.integers(0, 3))
    def cancel(self, after: int) -> None:
        """The caller changes its mind in the middle."""
        asked: list[int] = []

        def cancelled() -> bool:
            asked.append(1)
            return len(asked) > after

        self._fails("cancelled", torch_offload.Cancelled, cancelled=cancelled)

    @HOLDING
    @rule()
    def host_is_full(self) -> None:
        """The host has no room."""
        self._fails("host full", torch_offload.OutOfHostMemory, host_limit_bytes=100)

    @HOLDING
    @rule(skip=st.integers(0, 4))
    def copy_fails(self, skip: int) -> None:
        """A copy to the host fails somewhere in the middle."""
        self.bench.board.set_fault("copy", FAILED, skip=skip)
        try:
            self._fails("copy failed", torch_offload.OffloadFailed)
        finally:
            self.bench.board.clear_faults()

    def _fails(self, name: str, error: type[Exception], **arguments: Any) -> None:
        """An offload that fails, unless there was too little to move for that."""
        try:
            self.bench.offload(**arguments)
        except error:
            happened[name] += 1
        except torch_offload.NothingToMove:
            happened["nothing to move"] += 1
        else:
            happened["offloads"] += 1
            self.away = True

    @AWAY
    @rule()
    def gpu_is_full(self) -> None:
        """Somebody else has the GPU: the bytes stay on the host, and it is tried again."""
        board = self.bench.board
        for index in range(2):
            board.set_other_used(board.gpus()[index].total_bytes, index)
        self._stays_away("gpu full", torch_offload.OutOfDeviceMemory)
        for index in range(2):
            board.set_other_used(0, index)

    @AWAY
    @rule(skip=st.integers(0, 4))
    def copy_back_fails(self, skip: int) -> None:
        """A copy to the device fails somewhere in the middle."""
        self.bench.board.set_fault("copy", FAILED, skip=skip)
        self._stays_away("copy back failed", torch_offload.OnloadFailed)
        self.bench.board.clear_faults()

    def _stays_away(self, name: str, error: type[Exception]) -> None:
        try:
            self.bench.onload()
        except error:
            happened[name] += 1
        else:
            self.away = False

    @AWAY
    @rule()
    def twice(self) -> None:
        """An order that comes twice changes nothing."""
        try:
            self.bench.offload()
        except torch_offload.NothingToMove:
            happened["ordered twice"] += 1

    @AWAY
    @rule()
    def onload(self) -> None:
        """Everything comes back."""
        self.bench.onload()
        happened["onloads"] += 1
        self.away = False

    @invariant()
    def equals_its_twin(self) -> None:
        """Bits, shapes, sharing, version counters and gradients, whenever they can be looked at."""
        if self.away or not self.pairs:
            return
        mine, twins = ([pair[side] for pair in self.pairs] for side in (0, 1))
        for a, b in self.pairs:
            assert torch.equal(bits(a), bits(b))
            if a.is_leaf or a.retains_grad:
                assert (a.grad is None) == (b.grad is None)
                assert a.grad is None or torch.equal(bits(a.grad), bits(b.grad))
        assert sharing(mine) == sharing(twins)

    def teardown(self) -> None:
        """Brings everything back, finishes what can be finished, and lets go of it all."""
        try:
            if self.away:
                self.bench.onload()
                self.away = False
            for number in range(len(self.pairs)):
                self.backward(number, True)
            self.equals_its_twin()
        finally:
            self.pairs.clear()
            self.held.clear()
            self.bench.board.clear_faults()


def run(count: int, number: int) -> dict[str, int]:
    """So many histories, from a seed; what happened in them. Raises with the shortest history that fails."""
    torch.set_num_threads(1)
    _bench[:] = [Bench(os.environ[BOARD_VARIABLE])]
    batches.BATCH_BYTES = 1 << 17  # so little data in many copies, too; only `Layout` reads it anew
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports what torch imports late
    gc.collect()
    gc.freeze()  # what was imported need not be looked through each time: what the histories make is still found
    run_state_machine_as_test(
        seed(number)(Histories),
        settings=settings(
            max_examples=count,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return dict(happened)
