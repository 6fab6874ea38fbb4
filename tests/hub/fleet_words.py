"""What servers say of themselves, for tests: a GPU, and kernels on it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from jupyter_gpu_reclaim.core.fleet import FleetServer, server_from

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
GIB = 1 << 30


def kernel(kernel_id: str, gib: float, idle_minutes: float | None = 30, **more: Any) -> dict[str, Any]:
    """A kernel of a status: idle for so long, or at work where that is None."""
    at_work = idle_minutes is None
    since = NOON - timedelta(minutes=idle_minutes or 0)
    return {
        "kernel_id": kernel_id,
        "label": f"{kernel_id}.ipynb",
        "phase": "resident",
        "footprint": {"GPU-1": int(gib * GIB)},
        "running_since": since.isoformat() if at_work else None,
        "last_active_at": since.isoformat(),
        "decision": {"act": "keep", "reason": "running" if at_work else "recently_active"},
        **more,
    }


def status(
    *kernels: dict[str, Any], used_gib: float = 16, total_gib: int = 16, **more: Any
) -> dict[str, Any]:
    """The part of a server's status that the service reads."""
    used = int(used_gib * GIB)
    gpu = {"uuid": "GPU-1", "name": "Simulated A100", "total_bytes": total_gib * GIB, "used_bytes": used}
    return {
        "taken_at": NOON.isoformat(),
        "gpus": [gpu],
        "kernels": list(kernels),
        "policy": {"mode": "on", "pressure_idle_after_seconds": 120.0},
        **more,
    }


def server(user: str, said: dict[str, Any], waiting_gib: float = 0, name: str = "") -> FleetServer:
    """The server that says this, and waits for so much."""
    waiting = {"GPU-1": int(waiting_gib * GIB)} if waiting_gib else {}
    return server_from(said, waiting, user=user, server=name, node="node-1", seen_at=NOON)
