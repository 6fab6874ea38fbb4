"""What one of many servers says of itself: the product's own status, of two kernels on a machine with eight GPUs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from jupyter_gpu_reclaim.bench.log.ingest import transition
from jupyter_gpu_reclaim.core.model import Gpu, Holding, Phase, Policy, Snapshot
from jupyter_gpu_reclaim.core.wire import instant, to_json
from jupyter_gpu_reclaim.hub_link.sent import sent_of
from jupyter_gpu_reclaim.reconciler.history import History
from jupyter_gpu_reclaim.reconciler.status import status_of
from jupyter_gpu_reclaim.server.status_json import status_body

GPUS, TOTAL_BYTES, HELD_BYTES = 8, 80 << 30, 6 << 30
WAITS_EVERY = 100
"""One of so many servers has a restore that waits for room in vain."""


def status(number: int, now: datetime) -> dict[str, Any]:
    """The status of server `number`, one of eight on a node, as its link would send it."""
    node, place = divmod(number, GPUS)
    gpus = tuple(
        Gpu(
            uuid=f"GPU-{UUID(int=node * GPUS + n)}", name="NVIDIA A100-SXM4-80GB", total_bytes=TOTAL_BYTES,
            used_bytes=TOTAL_BYTES - (1 << 30), utilization=0.5, power_watts=180.0,
        )
        for n in range(GPUS)
    )  # fmt: skip
    waits = number % WAITS_EVERY == 0
    holdings = tuple(
        Holding(
            kernel_id=str(UUID(int=2 * number + n)), label=f"course/week-{n}/exercise-{number % 50}.ipynb",
            managed=True, mechanism="torch_offload", framework="torch 2.13.0", background_work=(), gpu_busy=False,
            last_active_at=now - timedelta(seconds=(number * 37 + n * 600) % 2400),
            footprint={gpus[(place + n) % GPUS].uuid: HELD_BYTES},
            phase=Phase.RECLAIMED if waits and n == 0 else Phase.RESIDENT,
            waiting=int(waits and n == 0),
            restore_wanted_at=now if waits and n == 0 else None,
        )
        for n in range(2)
    )  # fmt: skip
    seen = Snapshot(taken_at=now, gpus=gpus, holdings=holdings, host_available_bytes=512 << 30)
    policy, history = Policy(), History()
    decisions = {made.kernel_id: made for made in history.decide(seen, policy)}
    return sent_of(status_body(status_of(policy, seen, decisions, history, (), ()), {}), policy)


def waiting(number: int) -> dict[str, int]:
    """What it waits for in vain, as bytes by GPU."""
    node, place = divmod(number, GPUS)
    return {} if number % WAITS_EVERY else {f"GPU-{UUID(int=node * GPUS + place)}": HELD_BYTES}


def changed(said: dict[str, Any], count: int, now: datetime) -> dict[str, Any]:
    """The same status at its next push: GPUs are busier or less so, and time has gone by."""
    gpus = [
        {**gpu, "used_bytes": gpu["used_bytes"] + (count % 7 << 20), "utilization": count % 10 / 10}
        for gpu in said["gpus"]
    ]
    return {**said, "taken_at": instant(now), "gpus": gpus}


def row(number: int, now: datetime) -> dict[str, Any]:
    """A row of some server's log."""
    made = replace(transition(number), id=str(uuid4()), episode_id=str(uuid4()), at=now, owner="")
    return to_json(made)


def user(number: int) -> str:
    """Whose server it is."""
    return f"user{number:04}"


def now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)
