"""What only CUDA has, at its boundary: `torch.cuda` is replaced by the least that answers as its documentation says.

Nothing here proves anything about a GPU; that is what the tests marked `gpu` are for.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jupyter_gpu_reclaim.agent.torch_offload import cuda
from jupyter_gpu_reclaim.agent.torch_offload.accelerator import Accelerator
from jupyter_gpu_reclaim.agent.torch_offload.places import place

MIB = 1 << 20


def segment(address: int, blocks: list[tuple[int, str]], **more: Any) -> dict[str, Any]:
    """A segment as `torch.cuda.memory_snapshot` gives it, with `blocks` of (bytes, state) one after the other."""
    return {
        "device": 0,
        "address": address,
        "total_size": sum(size for size, _ in blocks),
        "segment_type": "small",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "blocks": [{"size": size, "requested_size": size, "state": state} for size, state in blocks],
        **more,
    }


def blocks_of(snapshot: list[dict[str, Any]]) -> tuple[dict[int, int], set[int]]:
    """The live blocks that an accelerator with this snapshot lists: {place: bytes}, {place} of the private ones."""
    accelerator = object.__new__(Accelerator)
    accelerator._snapshot = lambda include_traces=True: snapshot
    blocks = accelerator.live_blocks()
    assert blocks is not None
    return blocks.sizes, blocks.private


def test_live_blocks_are_listed_with_their_addresses() -> None:
    """A block's address follows from the sizes before it, as blocks fill their segment; free ones are passed over."""
    snapshot = [
        segment(0x1000, [(512, "active_allocated"), (1024, "inactive"), (2048, "active_allocated")]),
        segment(0x9000, [(4096, "active_pending_free"), (512, "active_allocated")], device=1),
    ]
    assert blocks_of(snapshot) == ({0x1000: 512, 0x1600: 2048, place(1, 0xA000): 512}, set())


def test_pools_of_their_own_are_told_apart() -> None:
    """Blocks of a CUDA graph's or a user's memory pool are private; an expandable segment's are not."""
    snapshot = [
        segment(0x1000, [(512, "active_allocated")], segment_pool_id=(0, 3)),
        segment(0x2000, [(512, "active_allocated")], segment_pool_id=(7, 0)),
        segment(0x3000, [(512, "active_allocated")], is_expandable=True),
    ]
    assert blocks_of(snapshot) == ({0x1000: 512, 0x2000: 512, 0x3000: 512}, {0x1000, 0x2000})


def test_the_history_of_allocations_is_left_out() -> None:
    """A profiling user's traces are not copied; a torch too old to leave them out is asked without."""
    asked = []

    def new(include_traces: bool = True) -> list[Any]:
        asked.append(include_traces)
        return []

    cuda.segments(new)
    assert asked == [False]
    assert cuda.segments(lambda: ["as ever"]) == ["as ever"]


@pytest.mark.parametrize(("device_type", "cleared"), [("cuda", 1), ("simgpu", 0)])
def test_scratch_memory_is_given_back_on_cuda_only(
    monkeypatch: pytest.MonkeyPatch, device_type: str, cleared: int
) -> None:
    """cuBLAS's workspaces are cleared for CUDA, once, and for nothing else."""
    calls: list[None] = []
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: calls.append(None), raising=False)
    cuda.clear_workspaces(device_type)
    assert len(calls) == cleared


@pytest.mark.parametrize(("code", "locked"), [(0, True), (2, False)])
def test_memory_that_cannot_be_page_locked_stays_usable(
    monkeypatch: pytest.MonkeyPatch, code: int, locked: bool
) -> None:
    """A refusal by the driver is an answer, not an error."""
    registered: list[tuple[int, int, int]] = []

    def register(address: int, nbytes: int, flags: int) -> int:
        registered.append((address, nbytes, flags))
        return code

    monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=register))
    assert cuda.page_lock(4096, MIB) is locked
    assert registered == [(4096, MIB, 0)]


def test_recorded_graphs_are_known_by_their_type() -> None:
    """`torch.cuda.CUDAGraph` is among the types whose instances forbid every move."""
    assert torch.cuda.CUDAGraph in cuda.graph_types()
