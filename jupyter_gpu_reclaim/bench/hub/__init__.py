"""What the Hub's service costs with 1,000 users' servers: one process of it, PostgreSQL, and who speaks to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.hub.crowd import Crowd, Heard
from jupyter_gpu_reclaim.bench.hub.service_process import ServiceProcess
from jupyter_gpu_reclaim.bench.log.postgresql import PostgresqlServer, missing

SERVERS, SECONDS, WARM_UP_SECONDS = 1000, 120.0, 40.0
PUSH_MS, CORES, GROWTH_MIB, PAGE_MS = 50, 1.0, 8.0, 300


def figures(
    seconds: float = SECONDS, servers: int = SERVERS, warm_up: float = WARM_UP_SECONDS
) -> Iterator[Figure]:
    """Each push's time, the service's CPU and memory, and each page's time, under a load of `seconds`."""
    why = missing()
    if why is not None:
        yield Figure.unmeasured("hub", "all of it", "", why, 0)
        return
    with ExitStack() as started:
        database = PostgresqlServer(fsync=True)
        started.callback(database.remove)
        database.start()
        started.callback(database.stop)
        service = started.enter_context(ServiceProcess(database.url(), database.folder))
        heard = asyncio.run(Crowd(service, servers).play(warm_up, seconds))
        yield from said(heard, servers)


def said(heard: Heard, servers: int) -> Iterator[Figure]:
    """The figures of what was heard. What failed is not left out: a push that was refused ends the bench."""
    span = f"{servers:,} servers, {heard.seconds / 60:.3g} min"
    pushes = {"a status": heard.statuses, "a transition": heard.transitions}
    pushes["either"] = [*heard.statuses, *heard.transitions]
    for what, samples in pushes.items():
        at_95 = 1e3 * percentile(samples, 0.95)
        yield Figure(
            group="hub",
            name=f"push of {what}, 95th percentile of {len(samples):,} ({span})",
            value=at_95, unit="ms", low=1e3 * min(samples), high=1e3 * max(samples),
            target=PUSH_MS, holds=at_95 <= PUSH_MS,
        )  # fmt: skip
    yield Figure.of("hub", f"cores that the service uses ({span})", "", heard.cores, target=CORES)
    third = max(1, len(heard.mib) // 3)
    first, last = median(heard.mib[:third]), median(heard.mib[-third:])
    yield Figure.of("hub", f"its memory ({span})", "MiB", heard.mib)
    yield Figure.of(
        "hub", "growth of its memory, first to last third", "MiB", [last - first], target=GROWTH_MIB
    )
    for page, samples in heard.pages.items():
        name = f"page /{page} for {servers:,} users, under that load"
        yield Figure.of("hub", name, "ms", [1e3 * s for s in samples], target=PAGE_MS)


def percentile(samples: list[float], share: float) -> float:
    """The least sample that is no smaller than that share of them."""
    return sorted(samples)[min(len(samples) - 1, int(share * len(samples)))]
