"""The torch device: it holds what the board allows, keeps devices apart, and fails as CUDA fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from simgpu import ChildFailed, run_on_simgpu

from jupyter_gpu_reclaim.sim.board import Board, MiB


def _everyday(folder: str) -> dict[str, Any]:
    import copy
    import pickle

    import torch

    x = torch.arange(12.0, device="simgpu").view(3, 4)
    y = x[:, 1:3]
    y += 100
    saved = f"{folder}/tensors.pt"
    torch.save({"x": x, "view": x[1]}, saved)
    loaded = torch.load(saved)
    loaded["x"][1] = -1
    scaled = torch.amp.GradScaler("simgpu").scale(torch.ones(1, device="simgpu"))
    with torch.autocast("simgpu", dtype=torch.bfloat16):
        half = (x @ x.T).dtype
    with torch.device("simgpu"):
        made = torch.zeros(2)
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.arange(8.0)), 4, pin_memory=True
    )
    pinned = [batch[0].is_pinned() for batch in batches]
    return {
        "view writes through": x.tolist()[0],
        "loaded": (str(loaded["x"].device), loaded["view"].tolist()),
        "on the host": torch.load(saved, map_location="cpu")["x"].device.type,
        "copies": [t.device.type for t in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), made, scaled)],
        "autocast": str(half),
        "resized out": torch.add(x, 1, out=torch.empty(0, device="simgpu")).sum().item()
        == x.sum().item() + 12,
        "printed": repr(torch.ones(2, device="simgpu")),
        "page-locked": pinned,
        "a negative view": torch.view_as_complex(torch.ones(2, 2, device="simgpu")).conj().imag.tolist(),
    }


def test_everyday_use(sim_board: Board, tmp_path: Any) -> None:
    """Views, saving, pickling, autocast, out= and a page-locking DataLoader behave on the device as on any other."""
    assert run_on_simgpu(sim_board, _everyday, str(tmp_path)) == {
        "view writes through": [0.0, 101.0, 102.0, 3.0],
        "loaded": ("simgpu:0", [-1.0] * 4),
        "on the host": "cpu",
        "copies": ["simgpu"] * 4,
        "autocast": "torch.bfloat16",
        "resized out": True,
        "printed": "tensor([1., 1.], device='simgpu:0')",
        "page-locked": [True, True],
        "a negative view": [-1.0, -1.0],
    }


# --- memory


def _allocate() -> dict[str, Any]:
    import torch

    gpu, accelerator = torch.simgpu, torch.accelerator
    before = (gpu.is_initialized(), accelerator.memory_allocated(), gpu.memory_snapshot())
    small = torch.empty(1000, dtype=torch.uint8, device="simgpu")
    large = torch.empty(30 * MiB + 1, dtype=torch.uint8, device="simgpu")
    middle = torch.empty(3 * MiB, dtype=torch.uint8, device="simgpu")
    held = (gpu.memory_allocated(), gpu.memory_reserved())
    live = {
        block["address"]: block["requested_size"]
        for segment in gpu.memory_snapshot()
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    }
    listed = live == {t.data_ptr(): t.nbytes for t in (small, large, middle)}
    sums = [sum(s[key] for s in gpu.memory_snapshot()) for key in ("allocated_size", "total_size")]
    segments = [(s["segment_type"], s["total_size"] // MiB) for s in gpu.memory_snapshot()]
    free = gpu.mem_get_info()[0]
    del small, large
    cached = gpu.memory_reserved()
    gpu.empty_cache()
    return {
        "before": before,
        "held": held,
        "listed": listed,
        "sums": tuple(sums),
        "segments": sorted(segments),
        "free": free,
        "cached": cached,
        "after": (gpu.memory_allocated(), gpu.memory_reserved()),
        "peak": gpu.max_memory_allocated(),
    }


def test_allocator_caches_as_cuda_does(sim_board: Board) -> None:
    """Sizes round to 512 bytes, segments are 2, 20 or more MiB, empty_cache returns idle ones, the snapshot adds up."""
    seen = run_on_simgpu(sim_board, _allocate)
    held = 1024 + 30 * MiB + 512 + 3 * MiB
    reserved = (2 + 32 + 20) * MiB
    assert seen == {
        "before": (False, 0, []),
        "held": (held, reserved),
        "listed": True,
        "sums": (held, reserved),
        "segments": [("large", 20), ("large", 32), ("small", 2)],
        "free": 256 * MiB - 16 * MiB - reserved,
        "cached": reserved,
        "after": (3 * MiB, 20 * MiB),
        "peak": held,
    }


def _fill() -> dict[str, Any]:
    import torch

    def empty(mebibytes: int) -> Any:
        return torch.empty(mebibytes * MiB, dtype=torch.uint8, device="simgpu")

    kept = empty(150)
    try:
        empty(100)
    except torch.OutOfMemoryError as error:
        message = str(error)
    first = empty(80)
    del first
    reserved = torch.accelerator.memory_reserved()
    second = empty(88)  # fits only once the cached 80 MiB are given back
    stats = torch.simgpu.memory_stats()
    return {
        "message": message,
        "reserved": (reserved, torch.accelerator.memory_reserved()),
        "counts": (stats["num_ooms"], stats["num_alloc_retries"]),
        "kept": (kept.nbytes, second.nbytes),
    }


def test_capacity_is_the_boards(sim_board: Board) -> None:
    """What does not fit raises torch.OutOfMemoryError with the figures; cached memory is given back first."""
    seen = run_on_simgpu(sim_board, _fill)
    assert f"Tried to allocate {100 * MiB} bytes" in seen["message"]
    assert f"of which {(256 - 16 - 150) * MiB} are free" in seen["message"]
    assert seen["reserved"] == (230 * MiB, 238 * MiB)
    assert seen["counts"] == (1, 2)
    assert seen["kept"] == (150 * MiB, 88 * MiB)


def _swap() -> dict[str, Any]:
    import torch

    weight = torch.arange(1 << 20, dtype=torch.int32, device="simgpu", requires_grad=False)
    view = weight[5:10]
    storage = weight.untyped_storage()
    host = torch.empty(storage.nbytes(), dtype=torch.uint8)
    host.copy_(torch.empty(0, dtype=torch.uint8, device="simgpu").set_(storage), non_blocking=True)
    torch.accelerator.synchronize()
    nothing = torch.UntypedStorage(0, device="simgpu:0")
    storage._swap_data_ptr_(nothing)
    del nothing
    torch.accelerator.empty_cache()
    without = (storage.nbytes(), torch.accelerator.memory_allocated(), torch.accelerator.memory_reserved())
    fresh = torch.UntypedStorage(host.nbytes, device="simgpu:0")
    torch.empty(0, dtype=torch.uint8, device="simgpu").set_(fresh).copy_(host)
    storage._swap_data_ptr_(fresh)
    del fresh
    storage.resize_(storage.nbytes() + 4096)
    return {"without": without, "view": view.tolist(), "last": int(weight[-1]), "grown": storage.nbytes()}


def test_storages_leave_and_return(sim_board: Board) -> None:
    """A storage's bytes can leave the device to exactly 0 and come back under its tensors by swapping data pointers."""
    seen = run_on_simgpu(sim_board, _swap)
    assert seen == {
        "without": (0, 0, 0),
        "view": [5, 6, 7, 8, 9],
        "last": (1 << 20) - 1,
        "grown": (4 << 20) + 4096,
    }


# --- several devices


def _two_devices() -> dict[str, Any]:
    import torch

    gpu, accelerator = torch.simgpu, torch.accelerator
    one = torch.arange(1000.0, device="simgpu:1")
    storage = torch.UntypedStorage(5000, device="simgpu:1")
    with gpu.device(1):
        inside = (torch.ones(1, device="simgpu").device.index, gpu.current_device())
    with accelerator.device_index(1):
        inside += (torch.ones(1, device="simgpu").device.index,)
    storage.resize_(9000)
    used = (accelerator.memory_allocated(0), accelerator.memory_allocated(1))
    try:
        one + torch.ones(1000, device="simgpu:0")
    except RuntimeError as error:
        mixed = str(error)
    try:
        torch.ones(1, device="simgpu:2")
    except RuntimeError as error:
        absent = str(error)
    moved = one.to("simgpu:0")
    gpu.set_device(1)
    return {
        "count": (gpu.device_count(), accelerator.device_count()),
        "inside": inside,
        "outside": (torch.ones(1, device="simgpu").device.index, accelerator.current_device_index()),
        "used": used,
        "mixed": mixed,
        "absent": absent,
        "moved": (moved.device.index, (moved * 2).sum().item(), one.sum().item()),
        "storage": (str(storage.device), storage.nbytes()),
        "names": [gpu.get_device_name(i) for i in (0, 1)],
        "uuid": gpu.get_device_properties(1).uuid,
        "total": gpu.get_device_properties("simgpu:1").total_memory,
        "snapshot": sorted({s["device"] for s in gpu.memory_snapshot()}),
    }


def test_two_devices(new_board: Callable[..., Board]) -> None:
    """Tensors, storages, accounting and the current device keep to the device asked for, and devices do not mix."""
    board = new_board(("GPU A", 64 * MiB), ("GPU B", 128 * MiB))
    seen = run_on_simgpu(board, _two_devices)
    assert "simgpu:1 and simgpu:0" in seen.pop("mixed")
    assert "invalid device ordinal 2" in seen.pop("absent")
    assert seen == {
        "count": (2, 2),
        "inside": (1, 1, 1),
        "outside": (1, 1),
        "used": (0, 4096 + 9216),
        "moved": (0, 999000.0, 499500.0),
        "storage": ("simgpu:1", 9000),
        "names": ["Simulated GPU A", "Simulated GPU B"],
        "uuid": board.gpus()[1].uuid.removeprefix("GPU-"),
        "total": 128 * MiB,
        "snapshot": [0, 1],
    }


# --- forked children


def _fork() -> tuple[str, int, int]:
    import os

    import torch

    x = torch.ones(MiB, dtype=torch.uint8, device="simgpu")
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            x + 1
            answer = "no error"
        except RuntimeError as error:
            answer = str(error)
        del x
        torch.accelerator.empty_cache()
        os.write(writable, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    total = int(x.sum(dtype=torch.int64).item())
    return os.read(readable, 10_000).decode(), total, torch.accelerator.memory_allocated()


def test_a_forked_child_has_no_device(sim_board: Board) -> None:
    """A child forked after the device was used gets CUDA's clear error and leaves its parent's memory alone."""
    message, total, allocated = run_on_simgpu(sim_board, _fork)
    assert "forked subprocess" in message
    assert "'spawn'" in message
    assert (total, allocated) == (MiB, MiB)


def _absent_attribute() -> None:
    import torch

    torch.simgpu.nothing_of_this_name()


def test_failures_reach_the_test(sim_board: Board) -> None:
    """What a function raises in its process fails the test with that traceback."""
    with pytest.raises(ChildFailed, match="nothing_of_this_name"):
        run_on_simgpu(sim_board, _absent_attribute)
