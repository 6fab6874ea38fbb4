"""When the loop ticks: as soon as something wants it to, and never so often that the server has no time for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SECONDS_A_TICK = 0.02
"""However often it is woken, the loop ticks no more often than this over time."""
TICKS_AT_ONCE = 10
"""So many ticks may follow each other without a pause: a cell that waits is seen to at once, whatever came before."""
AFTER_A_DEFECT_SECONDS = 1.0
"""After a tick that failed, wakes are not listened to for so long: a defect never becomes a busy loop."""


class Pulse:
    """The pauses between ticks, `tick_seconds` long unless something is due before, or `wake()` is called."""

    def __init__(self, tick_seconds: float) -> None:
        self.tick_seconds = tick_seconds
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ticks_saved = float(TICKS_AT_ONCE)
        self._counted_at: float | None = None

    @property
    def stopping(self) -> bool:
        """Whether `stop()` was called."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """Tick now, or as soon as the tick under way is over."""
        self._woken.set()

    def stop(self) -> None:
        """End the pause, and have no further one."""
        self._stopping.set()
        self._woken.set()

    def begin(self) -> None:
        """A tick begins, and sees to everything that it was woken for so far."""
        self._woken.clear()

    async def pause(self, failed: bool, due_in: Callable[[], float]) -> None:
        """Rest after a tick. `due_in()` says in how many seconds something wants the next."""
        rest = min(self.tick_seconds, AFTER_A_DEFECT_SECONDS) if failed else self._debt()
        if rest > 0:
            await _for(self._stopping, rest)
        await _for(self._woken, due_in())

    def _debt(self) -> float:
        """Seconds to wait before the next tick, so that they stay as seldom over time as promised."""
        now = asyncio.get_running_loop().time()
        since = 0.0 if self._counted_at is None else now - self._counted_at
        self._counted_at = now
        self._ticks_saved = min(TICKS_AT_ONCE, self._ticks_saved + since / SECONDS_A_TICK) - 1
        return -self._ticks_saved * SECONDS_A_TICK


async def _for(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
