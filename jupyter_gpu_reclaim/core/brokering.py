"""Which servers are asked to make room for a restore that waits on another one, and for how much.

They are asked for what their idle kernels hold, no more: each decides itself and may refuse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from jupyter_gpu_reclaim.core.fleet import FleetKernel, FleetServer
from jupyter_gpu_reclaim.core.model import Phase

Key = tuple[str, str]
Chosen = Mapping[Key, Mapping[str, int]]


def asked(
    servers: Iterable[FleetServer], now: datetime, passed_over: Collection[tuple[Key, str]] = ()
) -> tuple[dict[Key, dict[str, int]], set[tuple[Key, str]]]:
    """Bytes that each server is to see free on each GPU, as pressure from outside, and the kernels meant by it.

    First the servers of lower priority, then whoever has been idle longest, as many as make the room. Kernels in
    `passed_over`, as (server's key, kernel id), have been asked for before and did not give way.
    """
    fleet = tuple(servers)
    pressure: dict[Key, dict[str, int]] = defaultdict(dict)
    meant: set[tuple[Key, str]] = set()
    for uuid in sorted({uuid for server in fleet for uuid in server.waiting}):
        sees = [server for server in fleet if uuid in server.gpus]
        if not sees:
            continue
        newest = max(sees, key=lambda server: server.seen_at).gpus[uuid]
        free, coming = newest.free_bytes, _coming(fleet, uuid)
        wanted = min(sum(server.waiting.get(uuid, 0) for server in fleet), newest.total_bytes)
        given: dict[Key, int] = defaultdict(int)
        for server, kernel in _idle_on(sees, uuid, now):
            missing = wanted - free - coming - sum(given.values())
            others_wait = any(other.waiting.get(uuid, 0) for other in fleet if other.key != server.key)
            if missing > 0 and others_wait and (server.key, kernel.kernel_id) not in passed_over:
                given[server.key] += kernel.footprint[uuid]
                meant.add((server.key, kernel.kernel_id))
        for key, count in given.items():
            pressure[key][uuid] = free + count
    return dict(pressure), meant


def _coming(servers: Iterable[FleetServer], uuid: str) -> int:
    """Bytes on their way off the GPU."""
    return sum(
        kernel.footprint.get(uuid, 0)
        for server in servers
        for kernel in server.kernels
        if kernel.phase is Phase.RECLAIMING
    )


def _idle_on(
    servers: Iterable[FleetServer], uuid: str, now: datetime
) -> list[tuple[FleetServer, FleetKernel]]:
    idle = [
        (server, kernel)
        for server in servers
        if server.patience.mode == "on"
        for kernel in server.kernels
        if kernel.footprint.get(uuid, 0) > 0 and kernel.gives_way(now, server.patience.pressure_idle_after)
    ]
    return sorted(
        idle, key=lambda found: (found[0].priority, found[1].idle_since, found[0].key, found[1].kernel_id)
    )
