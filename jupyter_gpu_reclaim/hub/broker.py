"""Asks servers to make room for restores that wait on others, as long as those wait."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.brokering import asked
from jupyter_gpu_reclaim.hub.fleet import Bells, Fleet, Key
from jupyter_gpu_reclaim.ports import Clock

logger = logging.getLogger(__name__)

PATIENCE = timedelta(seconds=10)
"""A kernel that was meant for so long and still holds its memory is passed over: its server has its reasons."""
PASSED_OVER_FOR = timedelta(seconds=60)
LOOK_SECONDS = 1.0  # between two looks while somebody waits, since kernels become idle by the clock
GATHER_SECONDS = 0.02  # after a push, so that those that come together are looked at once


class Broker:
    """`pressure` is what each server is to be told, {GPU: bytes}."""

    def __init__(self, fleet: Fleet, bells: Bells, clock: Clock) -> None:
        self._fleet = fleet
        self._bells = bells
        self._clock = clock
        self._kicked = asyncio.Event()
        self._meant: dict[tuple[Key, str], datetime] = {}  # since when
        self._passed_over: dict[tuple[Key, str], datetime] = {}  # since when
        self._task: asyncio.Task | None = None
        self.pressure: dict[Key, dict[str, int]] = {}

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="hub broker")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def kick(self) -> None:
        """Some server has said something new."""
        if self.pressure or self._fleet.waiting():
            self._kicked.set()

    def look(self) -> None:
        """Decide anew whom to ask, and ring their bells."""
        now = self._clock.now()
        for meant, since in tuple(self._meant.items()):
            if now - since >= PATIENCE:
                self._passed_over[meant] = now
        for passed, since in tuple(self._passed_over.items()):
            if now - since >= PASSED_OVER_FOR:
                del self._passed_over[passed]
        pressure, meant = asked(self._fleet, now, self._passed_over.keys())
        self._meant = {one: self._meant.get(one, now) for one in meant}
        before, self.pressure = self.pressure, pressure
        self._bells.ring(
            {key for key in before.keys() | pressure.keys() if before.get(key) != pressure.get(key)}
        )

    async def _run(self) -> None:
        while True:
            waits = bool(self.pressure or self._fleet.waiting())
            try:
                async with asyncio.timeout(LOOK_SECONDS if waits else None):
                    await self._kicked.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(GATHER_SECONDS)
            self._kicked.clear()
            try:
                self.look()
            except Exception:
                logger.exception("The broker's look failed; it looks again in a second")
                await asyncio.sleep(LOOK_SECONDS)
