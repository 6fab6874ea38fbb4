"""Since when is each GPU short of headroom. The history is passed in and returned, never hidden."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from jupyter_gpu_reclaim.core.model import Policy, Snapshot


def track_pressure(snapshot: Snapshot, policy: Policy, since: Mapping[str, datetime]) -> dict[str, datetime]:
    """{GPU uuid: instant from which it has been short in every look}, given what the last look returned.

    A GPU that cannot be observed drops out: it must be seen short for the whole grace again, since unknown is never
    taken for short. With no headroom wanted (0 bytes) no GPU is ever short.
    """
    return {
        gpu.uuid: since.get(gpu.uuid, snapshot.taken_at)
        for gpu in snapshot.gpus or ()
        if gpu.free_bytes < policy.headroom_bytes
    }


def short_gpus(policy: Policy, since: Mapping[str, datetime], now: datetime) -> list[str]:
    """The GPUs that have been short for at least `pressure_grace`, in a stable order."""
    return sorted(uuid for uuid, start in since.items() if now - start >= policy.pressure_grace)
