"""A status with every state of a kernel in it that a front end has to show, for `golden/status.json`.

`python tests/golden_scene.py` writes that file anew; look at what changed before it is committed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.core.alarms import Alarm, laid_over
from jupyter_gpu_reclaim.core.model import Event, Gpu, Holding, Phase, Policy, Snapshot, Transition
from jupyter_gpu_reclaim.core.priorities import prioritised
from jupyter_gpu_reclaim.reconciler.history import History
from jupyter_gpu_reclaim.reconciler.status import Status, status_of
from jupyter_gpu_reclaim.server.agent_status import AgentStatus
from jupyter_gpu_reclaim.server.status_json import status_body

FILE = Path(__file__).parent / "golden" / "status.json"
NOW = datetime(2026, 1, 5, 14, 0, tzinfo=UTC)
GIB = 1 << 30
BIG, SMALL = "GPU-big", "GPU-small"
POLICY = Policy(headroom_bytes=GIB, priorities={"demo/*": -1})


def ago(**span: float) -> datetime:
    """So long before the look."""
    return NOW - timedelta(**span)


def kernel(name: str, gpu: str = SMALL, gib: float = 1, **facts: Any) -> Holding:
    """A managed kernel that was used six minutes ago, but for what is said of it."""
    plain = {
        "owner": "ada",
        "kernel_name": "python3",
        "managed": True,
        "pid": 4000,
        "mechanism": "torch_offload",
        "framework": "torch 2.13.0",
        "background_work": (),
        "gpu_busy": False,
        "last_active_at": ago(minutes=6),
        "footprint": {gpu: int(gib * GIB)},
        "footprint_source": "nvml",
    }
    return Holding(kernel_id=name, label=f"{name}.ipynb", **(plain | facts))


def away(name: str, gpu: str, gib: float, **facts: Any) -> Holding:
    """A reclaimed kernel."""
    plain = {
        "phase": Phase.RECLAIMED,
        "phase_since": ago(minutes=30),
        "host_bytes": int(gib * GIB),
        "footprint_source": "allocator",
        "last_active_at": ago(minutes=55),
    }
    return kernel(name, gpu, gib, **(plain | facts))


HOLDINGS = (
    kernel("running", BIG, 40, running_since=ago(seconds=40), gpu_busy=True),
    kernel("growing", BIG, 20, running_since=ago(minutes=2), room_wanted={BIG: 8 * GIB}, room_wanted_at=ago(seconds=3)),
    away("first-in-line", BIG, 30, waiting=1, restore_wanted_at=ago(seconds=90)),
    away("second-in-line", BIG, 10, waiting=2, restore_wanted_at=ago(seconds=20)),
    away("no-spare-room", BIG, 4, prefetch_wanted_at=ago(seconds=1)),
    away(
        "restoring", SMALL, 4.2, phase=Phase.RESTORING, waiting=1, moved_bytes=int(3.1 * GIB),
        move_total_bytes=int(4.2 * GIB),
    ),
    kernel("reclaiming", SMALL, 2, phase=Phase.RECLAIMING, moved_bytes=GIB // 2, move_total_bytes=2 * GIB),
    away("reclaimed", SMALL, 4.2, spilled_bytes=GIB),
    kernel("demo/idle"),
    kernel("about-to-be-warned", last_active_at=ago(minutes=19, seconds=1)),
    kernel("warned", last_active_at=ago(minutes=19, seconds=30), warned_at=ago(seconds=30)),
    kernel("kept", last_active_at=ago(hours=2), pinned_until=NOW + timedelta(hours=1)),
    kernel("working-behind", background_work=("child process 4711 (pt_data_worker) holds GPU memory",)),
    kernel("jax", mechanism=None, framework=None, unsupported="JAX holds the GPU memory, which cannot be moved yet."),
    kernel("distrusted", framework="torch 2.12.0"),
    kernel("unmanaged", managed=False, mechanism=None, unsupported="It was started before reclaiming was switched on."),
    kernel("empty", footprint={}, footprint_source=None),
)  # fmt: skip
ALARM = Alarm(
    id="alarm-1", raised_at=ago(days=1), kernel_id="distrusted", label="distrusted.ipynb", phase=Phase.RESIDENT,
    mechanism="torch_offload", gpu=SMALL, driver=None, framework="torch 2.12.0", detail="A checksum differed.",
)  # fmt: skip


def moves() -> list[Transition]:
    """What moved of late: a reclaim and a restore on the small GPU, too much of its time."""
    return [
        Transition(
            id=event, at=ago(seconds=50), kernel_id="reclaimed", event=event, phase=phase,
            footprint={SMALL: 4 * GIB}, moved_bytes=4 * GIB, took=timedelta(seconds=took),
        )
        for event, phase, took in (
            (Event.RECLAIM_DONE, Phase.RECLAIMED, 5),
            (Event.RESTORE_DONE, Phase.RESIDENT, 10),
        )
    ]  # fmt: skip


def scene() -> Status:
    """What the reconciler would make of this world."""
    seen = Snapshot(
        taken_at=NOW,
        gpus=(
            Gpu(
                uuid=BIG, name="NVIDIA A100 80GB", total_bytes=80 * GIB, used_bytes=75 * GIB, utilization=0.9,
                power_watts=310.5,
            ),
            Gpu(
                uuid=SMALL, name="Simulated GPU 24 GiB", total_bytes=24 * GIB, used_bytes=16 * GIB, simulated=True,
            ),
        ),
        holdings=HOLDINGS,
        host_available_bytes=200 * GIB,
        outside_pressure={BIG: 2 * GIB},
    )  # fmt: skip
    snapshot = prioritised(laid_over(seen, [ALARM]), POLICY)
    history = History()
    for row in moves():
        history.take(row)
    decisions = {decision.kernel_id: decision for decision in history.decide(snapshot, POLICY)}
    return status_of(POLICY, snapshot, decisions, history, (ALARM.sentence,), (ALARM,))


def body() -> dict[str, Any]:
    """The reply of GET status for the scene."""
    agent = AgentStatus(
        allocated_bytes={SMALL: GIB // 2}, reserved_bytes={SMALL: GIB}, notes=("2.0 MiB stay on the GPU.",)
    )
    return status_body(scene(), {"demo/idle": agent})


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(body(), indent=2) + "\n")
