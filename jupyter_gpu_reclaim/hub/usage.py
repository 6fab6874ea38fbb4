"""Samples of what the fleet holds, for its report: as servers take them of themselves, put together by node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import timedelta

from jupyter_gpu_reclaim.core.fleet_view import by_node, snapshot_of
from jupyter_gpu_reclaim.core.usage import Meter, Span
from jupyter_gpu_reclaim.hub.fleet import Fleet
from jupyter_gpu_reclaim.ports import Clock, LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 10.0
LONGEST = timedelta(seconds=35)  # a node that was not seen for longer was not observed in between
WRITE_EVERY = 6  # samples
MOST_HELD_BACK = 60  # spans, ten minutes of them, while the database is away
STOP_SECONDS = 5.0


class FleetUsage:
    """A meter for each node. Written once a minute, in one go."""

    def __init__(self, fleet: Fleet, log: SqlReclaimLog, clock: Clock) -> None:
        self.store = UsageStore(log, "hub")
        self._fleet = fleet
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._ready: dict[int, Span] = {}  # by when they begin; not in the database yet
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        """Begin to sample."""
        self._task = asyncio.create_task(self._run(), name="hub usage")

    async def stop(self) -> None:
        """Write what is left, if the database takes it within `STOP_SECONDS`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for meter in self._meters.values():
            self._take(meter.rest())
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.write()
        except TimeoutError:
            logger.warning("The last samples of what GPUs hold are lost: the database does not answer")

    async def sample(self) -> None:
        """Look at the fleet once; what the last look showed held until now."""
        now, nodes = self._clock.now(), by_node(self._fleet)
        for node, servers in nodes.items():
            self._meters.setdefault(node, Meter(LONGEST)).see(snapshot_of(servers, now))
            await asyncio.sleep(0)  # others are answered in between
        for node in self._meters.keys() - nodes.keys():
            self._take(self._meters[node].rest())

    async def write(self) -> None:
        """Write the spans that are over. While the database is away they are kept, the newest of them."""
        for meter in self._meters.values():
            self._take(meter.ended())
        for at in sorted(self._ready)[:-MOST_HELD_BACK]:
            del self._ready[at]
        spans, self._ready = self._ready, {}
        gpus = {uuid: gpu for meter in self._meters.values() for uuid, gpu in meter.gpus.items()}
        try:
            await self.store.write([spans[at] for at in sorted(spans)], gpus)
        except LogUnavailable as error:
            logger.warning("Samples of what GPUs hold wait for the database: %s", error)
            self._take(spans.values())

    def _take(self, spans: Iterable[Span]) -> None:
        """Put together what all nodes' meters have of the same time: no GPU and no kernel is on two nodes."""
        for span in spans:
            whole = self._ready.setdefault(span.at, Span(span.at))
            whole.gpus.update(span.gpus)
            whole.kernels.update(span.kernels)

    async def _run(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            count += 1
            try:
                await self.sample()
                if count % WRITE_EVERY == 0:
                    await self.write()
            except Exception:
                logger.exception(
                    "A sample of what GPUs hold failed; the next is taken in %g s", SAMPLE_SECONDS
                )
