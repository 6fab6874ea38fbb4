"""The reply of GET status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.reconciler import Status
from jupyter_gpu_reclaim.server.agent_status import AgentStatus

SILENT = AgentStatus()


def status_body(
    status: Status, agents: Mapping[str, AgentStatus], hub: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The snapshot, with each kernel's decision, wait and its agent's word beside what was seen.

    `hub` is what a Hub's service says of this server; None: there is none.
    """
    snapshot = status.snapshot
    seen = {"taken_at": None, "gpus": None, "host_available_bytes": None, "outside_pressure": {}}
    if snapshot is not None:
        seen = {name: to_json(getattr(snapshot, name)) for name in seen}
    holdings = () if snapshot is None else snapshot.holdings
    return {
        **seen,
        **({} if hub is None else {"hub": dict(hub)}),
        "problems": to_json(status.problems),
        "alarms": to_json(status.alarms),
        "short_since": to_json(status.short_since),
        "traffic": to_json(status.pace.traffic),
        "residence_seconds": to_json(status.residence),
        "policy": to_json(status.policy),
        "kernels": [
            {
                **to_json(holding),
                "footprint_bytes": holding.footprint_bytes,
                "gpus": agents.get(holding.kernel_id, SILENT).allocator(),
                "notes": list(agents.get(holding.kernel_id, SILENT).notes),
                "decision": to_json(status.decisions[holding.kernel_id]),
                "explanation": status.explanations[holding.kernel_id],
                "due_at": to_json(status.due_at[holding.kernel_id]),
                "wait": to_json(status.waits.get(holding.kernel_id)),
            }
            for holding in holdings
        ],
    }
