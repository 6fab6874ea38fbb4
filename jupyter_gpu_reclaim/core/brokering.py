"""Which servers are asked to make room for a restore that waits on another one, and for how much.

They are asked for what their idle kernels hold, no more: each decides itself and may refuse.
"""

from __future__ import annotations

from collections import Counter, defaultdict
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

    First the kernels of lower priority, then whoever has been idle longest, as many as make the room. Kernels in
    `passed_over`, as (server's key, kernel id), have been asked for before and did not give way.
    """
    fleet = tuple(servers)
    waits = _waits(fleet)
    sees, coming = _sees(fleet, waits), _coming(fleet)
    pressure: dict[Key, dict[str, int]] = defaultdict(dict)
    meant: set[tuple[Key, str]] = set()
    for uuid in sorted(sees):
        newest = max(sees[uuid], key=lambda server: server.seen_at).gpus[uuid]
        free = newest.free_bytes
        missing = min(sum(waits[uuid].values()), newest.total_bytes) - free - coming[uuid]
        given: dict[Key, int] = defaultdict(int)
        for server, kernel in _idle_on(sees[uuid], uuid, now):
            if missing <= 0:
                break
            others_wait = waits[uuid].keys() - {server.key}
            if others_wait and (server.key, kernel.kernel_id) not in passed_over:
                given[server.key] += kernel.footprint[uuid]
                missing -= kernel.footprint[uuid]
                meant.add((server.key, kernel.kernel_id))
        for key, count in given.items():
            pressure[key][uuid] = free + count
    return dict(pressure), meant


def _waits(servers: Iterable[FleetServer]) -> dict[str, dict[Key, int]]:
    """By GPU, the bytes that each server waits for."""
    waits: dict[str, dict[Key, int]] = defaultdict(dict)
    for server in servers:
        for uuid, count in server.waiting.items():
            if count > 0:
                waits[uuid][server.key] = count
    return waits


def _sees(servers: Iterable[FleetServer], uuids: Iterable[str]) -> dict[str, list[FleetServer]]:
    """Those of the GPUs that some server sees, and which servers do."""
    wanted, sees = frozenset(uuids), defaultdict(list)
    for server in servers:
        for uuid in wanted & server.gpus.keys():
            sees[uuid].append(server)
    return sees


def _coming(servers: Iterable[FleetServer]) -> Counter[str]:
    """By GPU, the bytes on their way off it."""
    coming: Counter[str] = Counter()
    for server in servers:
        for kernel in server.kernels:
            if kernel.phase is Phase.RECLAIMING:
                coming.update(kernel.footprint)
    return coming


def _idle_on(
    servers: Iterable[FleetServer], uuid: str, now: datetime
) -> list[tuple[FleetServer, FleetKernel]]:
    idle = [
        (server, kernel)
        for server in servers
        if server.patience.mode != "dry_run"  # of one that is off, kernels of some kernelspecs may be on
        for kernel in server.kernels
        if kernel.footprint.get(uuid, 0) > 0 and server.gives_way(kernel, now)
    ]
    return sorted(
        idle,
        key=lambda found: (
            found[0].priority_of(found[1]),
            found[1].idle_since,
            found[0].key,
            found[1].kernel_id,
        ),
    )
