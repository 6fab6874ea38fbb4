"""Scenarios: what an offload says of devices, of what coming back takes, and of the allocator's blocks."""

from __future__ import annotations

import random
from typing import Any

import torch
from holders import DEVICE, Place, portrait


def two_gpus(bench: Any) -> dict[str, Any]:
    """Tensors on both devices, the second being nobody's current one."""
    first, second = Place(bench).values(1), Place(bench).values(2).to(DEVICE + ":1")
    expected = portrait([first, second])
    result = bench.offload()
    reserved = bench.reserved()
    bench.onload()
    return {
        "freed": result.freed_bytes,
        "needed": result.needed_bytes,
        "uuids": [gpu.uuid for gpu in bench.board.gpus()],
        "reserved": reserved,
        "devices": [str(first.device), str(second.device)],
        "allocated": {gpu["index"]: gpu["allocated_bytes"] for gpu in bench.mechanism.gpus().values()},
        "equal": portrait([first, second]) == expected,
    }


def private_pool(bench: Any) -> dict[str, Any]:
    """The judgement of blocks: one in a private pool, one with an owner that moves, one nobody owns."""
    from jupyter_gpu_reclaim.agent.torch_offload.accelerator import Blocks
    from jupyter_gpu_reclaim.agent.torch_offload.account import _by_address, _placed
    from jupyter_gpu_reclaim.agent.torch_offload.find import no_user_code, walk
    from jupyter_gpu_reclaim.agent.torch_offload.places import place

    pooled, plain = Place(bench).values(1), Place(bench).values(2)
    with no_user_code():
        placed = _placed(walk([pooled, plain], DEVICE), bench.mechanism._accelerator)
        sizes = {pooled.data_ptr(): 12288, plain.data_ptr(): 12288, place(1, 4096): 512}
        reasons: dict[int, str] = {}
        unmovable, unexplained, staying = _by_address(placed, reasons, Blocks(sizes, {pooled.data_ptr()}))
    return {
        "unmovable": dict(unmovable),
        "unexplained_bytes": unexplained,
        "staying": staying == {pooled.data_ptr(), place(1, 4096)},
        "pooled": reasons.get(pooled.untyped_storage()._cdata),
        "plain": reasons.get(plain.untyped_storage()._cdata),
    }


def reservations(bench: Any) -> dict[str, Any]:
    """Storages of all sizes on an empty device: what `needed_bytes` says, and what coming back then takes."""
    generator = random.Random(7)
    kept = [
        torch.empty(int(2 ** generator.uniform(4, 23.5)), dtype=torch.uint8, device=DEVICE)
        for _ in range(200)
    ]
    kept.append(torch.empty((25 << 20) + 1, dtype=torch.uint8, device=DEVICE))
    result = bench.cycle()
    return {"needed": sum(result.needed_bytes.values()), "taken": bench.reserved(), "moved": len(kept)}
