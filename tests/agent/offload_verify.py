"""Scenarios: bits that flip on the way out, on the host and on the way back."""

from __future__ import annotations

from typing import Any

import torch
from holders import DEVICE, Place, portrait
from offload_faults import _raised, _Subject, small_batches

from jupyter_gpu_reclaim.agent.torch_offload import OffloadFailed, OnloadFailed
from jupyter_gpu_reclaim.sim.board import FLIP_BIT


def _flip(bench: Any, skip: int) -> None:
    bench.board.set_fault("copy", FLIP_BIT, skip=skip, count=1)


@small_batches(1 << 14)
def flipped_on_the_way_out(bench: Any) -> dict[str, Any]:
    """One bit in one of the copies of an offload; each copy in turn, until there are no more copies to flip."""
    subject, alarms, skip = _Subject(bench), [], 0
    while True:
        _flip(bench, skip)
        error = _raised(bench.offload)
        bench.board.clear_faults()
        if error is None:
            break
        alarms.append((type(error) is OffloadFailed and error.damaged_gpu, subject.untouched()))
        skip += 1
    bench.onload()
    return {
        "alarms": len(alarms),
        "all_told": set(alarms) == {(bench.board.gpus()[0].uuid, True)},
        "message": str(error or ""),
        "as_before": subject.as_before(),
    }


@small_batches(1 << 14)
def flipped_on_the_way_back(bench: Any) -> dict[str, Any]:
    """One bit in one of the copies of an onload; each in turn. The bytes on the host stay, and come back right."""
    subject, alarms, skip = _Subject(bench), [], 0
    bench.offload()
    while True:
        _flip(bench, skip)
        error = _raised(bench.onload)
        bench.board.clear_faults()
        if error is None:
            break
        alarms.append((type(error) is OnloadFailed and error.damaged_gpu, error.memory_intact))
        message = str(error)
        skip += 1
    return {
        "alarms": len(alarms),
        "all_told": set(alarms) == {(bench.board.gpus()[0].uuid, True)},
        "message": message,
        "as_before": subject.as_before(),
    }


def changed_on_the_host(bench: Any) -> dict[str, Any]:
    """A bit of the host's memory changes while the bytes are there; later it is put right."""
    subject = _Subject(bench)
    bench.offload()
    at = bench.mechanism._host.slice(1000, 1)
    at ^= 4
    error = _raised(bench.onload)
    offloaded = bench.mechanism.offloaded
    at ^= 4
    bench.onload()
    return {
        "error": type(error).__name__,
        "message": str(error),
        "intact": error.memory_intact,
        "gpu_is_told": error.damaged_gpu == bench.board.gpus()[0].uuid,
        "offloaded": offloaded,
        "as_before": subject.as_before(),
    }


def without_verifying(bench: Any) -> dict[str, Any]:
    """The same flip passes unnoticed where verifying is switched off: what the checksums are for."""
    tensor = torch.zeros(1 << 20, device=DEVICE)
    _flip(bench, 0)
    bench.offload(verify=False)
    bench.board.clear_faults()
    bench.onload()
    return {"wrong": int((tensor != 0).sum())}


def on_a_full_device(bench: Any) -> dict[str, Any]:
    """No room for the checksums on the device; a flip on the way out, and one on the way back."""
    values = torch.arange(3 << 20, device=DEVICE)
    torch.simgpu.empty_cache()
    gpu = bench.board.gpus()[0]
    bench.board.set_other_used(gpu.total_bytes - gpu.used_bytes)
    _flip(bench, 0)
    out = _raised(bench.offload)
    bench.board.clear_faults()
    bench.offload()
    _flip(bench, 0)
    back = _raised(bench.onload)
    bench.board.clear_faults()
    bench.onload()
    bench.board.set_other_used(0)
    return {
        "errors": [type(error).__name__ for error in (out, back)],
        "equal": torch.equal(values.cpu(), torch.arange(3 << 20)),
    }


def second_device(bench: Any) -> dict[str, Any]:
    """Tensors on two devices, small enough to share a batch; the flip is in the copy from the second."""
    tensors = [Place(bench).values(1), Place(bench).values(2).to(DEVICE + ":1")]
    expected = portrait(tensors)
    told = []
    for skip in range(40):
        bench.board.set_fault("copy", FLIP_BIT, device=1, skip=skip, count=1)
        error = _raised(bench.offload)
        bench.board.clear_faults()
        if error is None:
            break
        told.append(error.damaged_gpu)
    bench.onload()
    return {
        "told": sorted(set(told)) == [bench.board.gpus()[1].uuid],
        "equal": portrait(tensors) == expected,
    }
