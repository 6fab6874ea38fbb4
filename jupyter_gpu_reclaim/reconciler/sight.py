"""The look that each tick begins with."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from jupyter_gpu_reclaim.core.model import Snapshot
from jupyter_gpu_reclaim.ports import Observer
from jupyter_gpu_reclaim.reconciler.neighbours import Neighbours

logger = logging.getLogger(__name__)

LOOK_PATIENCE_SECONDS = 30.0
"""A look at the world that takes longer is given up; the next tick looks again."""


class Sight:
    """GPUs and kernels as the observer sees them, with what other servers wait for."""

    def __init__(self, observer: Observer, neighbours: Neighbours) -> None:
        self._observer = observer
        self._neighbours = neighbours
        self.problem: str | None = None  # why the last look failed, as a sentence; None: it did not

    async def look(self) -> Snapshot | None:
        """The world now; None when it cannot be looked at. Never raises."""
        try:
            async with asyncio.timeout(LOOK_PATIENCE_SECONDS):
                seen, elsewhere = await asyncio.gather(self._observer.snapshot(), self._neighbours.waiting())
        except Exception as error:  # a port promises not to raise; whatever it is, the next look may succeed
            problem = f"GPUs and kernels cannot be looked at: {error or type(error).__name__}."
            if problem != self.problem:
                logger.exception("%s Nothing is moved until they can", problem)
            self.problem = problem
            return None
        self.problem = None
        return replace(seen, outside_pressure={**seen.outside_pressure, **elsewhere}) if elsewhere else seen
