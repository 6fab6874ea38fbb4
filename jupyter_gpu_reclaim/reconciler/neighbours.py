"""The other servers on this machine, through the board they share; without one, nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.explain import human_bytes
from jupyter_gpu_reclaim.ports import Clock, Observer, PressureBoard

SAID_AGAIN_AFTER = timedelta(seconds=5)
"""While somebody waits, the board is told again after so long: it forgets who has not been heard of."""


class Neighbours:
    """Files are touched in threads. With `board` None this server is alone."""

    def __init__(self, board: PressureBoard | None, observer: Observer, clock: Clock) -> None:
        self._board = board
        self._observer = observer
        self._clock = clock
        self._published: Mapping[str, int] = {}
        self._published_at: datetime | None = None

    @property
    def problem(self) -> str | None:
        """Why this server works alone though it should not, as a sentence."""
        return None if self._board is None else self._board.problem

    async def waiting(self) -> Mapping[str, int]:
        """Bytes per GPU that other servers' restores wait for."""
        return {} if self._board is None else await asyncio.to_thread(self._board.waiting_elsewhere)

    async def publish(self, waiting: Mapping[str, int], since: datetime | None) -> None:
        """Tell the others what waits here in vain; nothing is written while nothing changes and nobody waits."""
        if self._board is None or (not waiting and not self._published):
            return
        now = self._clock.now()
        if waiting == self._published and now - (self._published_at or now) < SAID_AGAIN_AFTER:
            return
        self._published, self._published_at = dict(waiting), now
        await asyncio.to_thread(self._board.publish, self._published, since)

    @asynccontextmanager
    async def claimed(self, need: Mapping[str, int]) -> AsyncIterator[str | None]:
        """Hold the lock of the GPUs of `need` (bytes per GPU). Yields why there is no room now, from a fresh look.

        A GPU that cannot be seen is taken to have room, as in `decide()`: running out of memory loses nothing.
        """
        gpus = [uuid for uuid, n in need.items() if n > 0]
        async with AsyncExitStack() as held:
            if self._board is not None and gpus:
                await held.enter_async_context(self._board.claim(gpus))
            seen = await self._observer.gpus() if gpus else ()
            free = {gpu.uuid: gpu.free_bytes for gpu in seen or ()}
            short = sum(max(0, need[uuid] - free[uuid]) for uuid in gpus if uuid in free)
            yield (
                f"Somebody else has taken the room meanwhile: {human_bytes(short)} short." if short else None
            )
