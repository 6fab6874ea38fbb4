"""How long `decide()` takes for a thousand kernels on eight GPUs, in two worlds: all idle, and many waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.core.model import Gpu, Holding, Phase, Policy, Snapshot
from jupyter_gpu_reclaim.core.policy import decide

KERNELS, GPUS, ROUNDS = 1000, 8, 15
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 1 << 30


def world(waiting: int) -> Snapshot:
    """1,000 kernels of 1 to 4 GiB on 8 full GPUs, idle between none and 40 minutes; the first `waiting` want back."""
    gpus = tuple(
        Gpu(uuid=f"GPU-{i}", name="bench", total_bytes=320 * GIB, used_bytes=319 * GIB) for i in range(GPUS)
    )
    holdings = tuple(
        Holding(
            kernel_id=f"k{i}", label=f"{i}.ipynb", managed=True, mechanism="torch_offload", background_work=(),
            gpu_busy=False, last_active_at=NOW - timedelta(seconds=(i * 37) % 2400),
            footprint={f"GPU-{i % GPUS}": (1 + i % 4) * GIB},
            phase=Phase.RECLAIMED if i < waiting else Phase.RESIDENT,
            waiting=int(i < waiting),
            restore_wanted_at=NOW - timedelta(seconds=waiting - i) if i < waiting else None,
        )
        for i in range(KERNELS)
    )  # fmt: skip
    return Snapshot(taken_at=NOW, gpus=gpus, holdings=holdings, host_available_bytes=4096 * GIB)


def figures() -> Iterator[Figure]:
    """Milliseconds per call."""
    for waiting in (0, 100):
        snapshot, policy, samples = world(waiting), Policy(), []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            decide(snapshot, policy, {})
            samples.append(1e3 * (time.perf_counter() - began))
        what = f"decide() for {KERNELS} kernels, {waiting} of them waiting"
        yield Figure.of("policy", what, "ms", samples, target=10)
