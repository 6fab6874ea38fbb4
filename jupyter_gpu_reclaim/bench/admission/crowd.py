"""How long the loop holds the server's event loop at most with 1,000 kernels, some of them waiting for room.

The kernels exist in memory only; the loop, `decide()`, the status and its sentences are the real ones. Every callback
of the event loop is timed while ticks go by.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.policy import KERNELS, world
from jupyter_gpu_reclaim.core.model import Gpu, Outcome, Phase, Policy, Reason, Refused, Snapshot, Transition
from jupyter_gpu_reclaim.reconciler import Reconciler

TICKS, WAITING = 15, 100


class Crowd:
    """The ports of a world in which nothing ever moves."""

    def __init__(self, seen: Snapshot) -> None:
        age = datetime.now(UTC) - seen.taken_at
        self._seen = replace(
            seen,
            holdings=tuple(
                replace(
                    h,
                    pid=number,
                    last_active_at=None if h.last_active_at is None else h.last_active_at + age,
                    restore_wanted_at=None,
                )
                for number, h in enumerate(seen.holdings)
            ),
        )

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(UTC)

    async def snapshot(self) -> Snapshot:
        """See `ports.Observer`."""
        return replace(self._seen, taken_at=self.now())

    async def gpus(self) -> tuple[Gpu, ...] | None:
        """See `ports.Observer`."""
        return self._seen.gpus

    async def suspend(self, kernel_id: str, host_bytes: int, spill_bytes: int = 0) -> Outcome:
        """See `ports.KernelControl`."""
        return Refused(Reason.RUNNING)

    async def resume(self, kernel_id: str) -> Outcome:
        """See `ports.KernelControl`."""
        return Refused(Reason.NO_ROOM)

    async def admit(self, kernel_id: str) -> None:
        """See `ports.KernelControl`."""

    async def end_wait(self, kernel_id: str, message: str) -> None:
        """See `ports.KernelControl`."""

    async def append(self, rows: Sequence[Transition]) -> None:
        """See `ports.ReclaimLog`."""

    def complaint(self) -> None:
        """See `ports.ReclaimLog`."""

    async def query(self, **filters: Any) -> tuple[list[Transition], str | None]:
        """See `ports.ReclaimLog`: each kernel is known in the phase that it is in."""
        name = filters.get("kernel_id")
        phases = {h.kernel_id: h.phase for h in self._seen.holdings if h.phase is not Phase.RESIDENT}
        if name not in phases:
            return [], None
        at = self.now() - timedelta(hours=1)
        return [Transition(id=name, at=at, kernel_id=name, event="reclaim_done", phase=phases[name])], None


async def holds() -> list[float]:
    """Seconds of the longest callback in each tick but the first, which meets everybody."""
    crowd = Crowd(world(WAITING))
    one = Reconciler(crowd, crowd, crowd, crowd, Policy(restore_timeout=timedelta(0)))
    await one.tick()
    longest: list[float] = []

    def timed(handle: asyncio.Handle, run: Any = asyncio.Handle._run) -> None:
        began = time.perf_counter()
        run(handle)
        longest[-1] = max(longest[-1], time.perf_counter() - began)

    plain = asyncio.Handle._run
    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        for _ in range(TICKS):
            longest.append(0.0)
            await one.tick()
            await one.quiet()
    finally:
        asyncio.Handle._run = plain  # type: ignore[method-assign]
    return longest


def figures() -> Iterator[Figure]:
    """Milliseconds."""
    what = f"our longest hold of the event loop with {KERNELS} kernels, {WAITING} of them waiting"
    yield Figure.of("admission", what, "ms", [1e3 * seconds for seconds in asyncio.run(holds())], target=20)
