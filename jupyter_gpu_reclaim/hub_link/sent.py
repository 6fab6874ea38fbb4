"""Of a server's status, what its link sends to the service, and what has others hear of it soon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jupyter_gpu_reclaim.core.kernelspecs import of_kernelspec
from jupyter_gpu_reclaim.core.model import Policy
from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.reconciler import Status

SENT = ("taken_at", "gpus", "problems", "alarms", "policy")
SENT_OF_KERNELS = (
    "kernel_id", "label", "kernel_name", "language", "phase", "phase_since", "footprint", "host_bytes", "mechanism",
    "framework", "unmovable", "running_since", "last_active_at", "pinned_until", "waiting", "restore_wanted_at",
    "decision", "explanation", "due_at", "wait",
)  # fmt: skip


def sent_of(body: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """What the service shows of a server, and no more. Kernels with a policy of their own say when they give way."""
    kernels = [{name: kernel[name] for name in SENT_OF_KERNELS} for kernel in body["kernels"]]
    for kernel in kernels if policy.by_kernelspec else ():
        own = of_kernelspec(kernel["kernel_name"], policy)
        kernel["pressure_idle_after_seconds"] = to_json(own.pressure_idle_after)
    return {**{name: body[name] for name in SENT}, "kernels": kernels}


def signature_of(status: Status) -> Any:
    """What changes in a status when something happened, not merely time."""
    if status.snapshot is None:
        return None
    return [
        (h.kernel_id, h.phase, h.running_since, h.pinned_until, to_json(h.footprint), status.decisions[h.kernel_id])
        for h in status.snapshot.holdings
    ] + [to_json(status.policy), list(status.problems)]  # fmt: skip
