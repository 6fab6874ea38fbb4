"""Samples of what is held, from the loop to the database, and what a chart or a total asks of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jupyter_gpu_reclaim.core.figures import Point, gpu_hours_won_back
from jupyter_gpu_reclaim.core.usage import GpuAmounts, Meter, Span, add
from jupyter_gpu_reclaim.core.wire import WireError, instant
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore
from jupyter_gpu_reclaim.reclaim_log.usage_rows import DAY, HOUR, KEPT, MINUTE, gpu_usage
from jupyter_gpu_reclaim.reconciler import Status

logger = logging.getLogger(__name__)

WRITE_SECONDS = 120  # what a server that is killed loses at most; a write costs as much as ten looks
MOST_HELD_BACK = 360  # spans, an hour of them, while the database is away
MOST_POINTS = 2000
STOP_SECONDS = 5.0
STEPS = (10, 30, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, DAY, 7 * DAY)
SHOWN = ("ms", "total", "resident", "reclaimed", "others")
KIB, GIB_IN_KIB = 1024, 1 << 20


class UsageRecorder:
    """Samples what the loop sees. `see` is a listener for `Reconciler.on_change`."""

    def __init__(self, store: UsageStore, tick_seconds: float) -> None:
        self.store = store
        self._meter = Meter(longest=timedelta(seconds=max(30.0, 3 * tick_seconds)))
        self._ready: list[Span] = []  # not in the database yet
        self._seen_at: datetime | None = None
        self._written_at = 0.0
        self._writing: asyncio.Task | None = None
        self.dropped = 0  # spans given up while the database was away

    def see(self, status: Status, rows: object) -> None:
        """Take in what a tick found; every two minutes, write what has come together."""
        snapshot = status.snapshot
        if snapshot is None or snapshot.taken_at == self._seen_at:
            return  # a tick whose look failed shows the former one
        self._seen_at = snapshot.taken_at
        self._meter.see(snapshot)
        now = asyncio.get_running_loop().time()
        idle = self._writing is None or self._writing.done()
        if idle and now - self._written_at >= WRITE_SECONDS:
            self._written_at = now
            self._take(self._meter.ended())
            self._writing = asyncio.create_task(self._write(), name="reclaim usage")

    async def stop(self) -> None:
        """Write what is left, if the database takes it within `STOP_SECONDS`."""
        self._take(self._meter.rest())
        try:
            async with asyncio.timeout(STOP_SECONDS):
                if self._writing is not None:
                    await asyncio.wait([self._writing])
                await self._write()
        except TimeoutError:
            logger.warning("The last samples of what GPUs hold are lost: the database does not answer")

    async def history(self, since: datetime, until: datetime, step: int | None) -> dict[str, Any]:
        """The reply of GET history. Raises `WireError` for a range or a step that cannot be, `LogUnavailable`."""
        step = fitting_step(since, until, step, datetime.now(UTC))
        begin, end = int(since.timestamp()) // step * step, int(until.timestamp())
        points = await self.store.points(begin, end, step, SHOWN)
        return {"step_seconds": step, "gpus": series(self._with_unwritten(points, begin, end, step))}

    async def totals(self, now: datetime) -> dict[str, Any]:
        """The reply of GET totals; `now` is of the zone whose days count. Raises `LogUnavailable`."""
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        week = today - timedelta(days=today.weekday())
        reply: dict[str, Any] = {}
        for name, since in (("today", today), ("week", week)):
            begin, end = int(since.timestamp()), int(now.timestamp()) + 1
            points = await self.store.points(begin, end, HOUR, SHOWN)
            reply[name] = won_back(self._with_unwritten(points, begin, end, HOUR))
        oldest = await self.store.oldest()
        unwritten = [span.at for span in (*self._ready, *self._meter.current())]
        first = min([*unwritten, *([] if oldest is None else [oldest])], default=None)
        return reply | {"since": None if first is None else instant(datetime.fromtimestamp(first, UTC))}

    def _take(self, spans: Iterable[Span]) -> None:
        self._ready += spans
        lost = max(0, len(self._ready) - MOST_HELD_BACK)
        if lost:
            self.dropped += lost
            del self._ready[:lost]

    async def _write(self) -> None:
        spans = list(self._ready)
        try:
            await self.store.write(spans, self._meter.gpus)
        except LogUnavailable as error:
            logger.warning("Samples of what GPUs hold wait for the database: %s", error)
            return
        self._ready = [span for span in self._ready if span not in spans]

    def _with_unwritten(self, points: list[Point], begin: int, end: int, step: int) -> list[Point]:
        """The points with those spans added that are not in the database yet."""
        found = {(point.gpu, point.at): point.amounts for point in points}
        for span in (*self._ready, *self._meter.current()):
            if begin <= span.at < end:
                for uuid, amounts in span.gpus.items():
                    add(found.setdefault((uuid, span.at // step * step), GpuAmounts()), amounts)
        return [Point(gpu=gpu, at=at, amounts=amounts) for (gpu, at), amounts in sorted(found.items())]


def fitting_step(since: datetime, until: datetime, step: int | None, now: datetime) -> int:
    """Seconds of a span: what was asked for, or what suits the range, and for which samples are still kept."""
    seconds = (until - since).total_seconds()
    if seconds <= 0:
        raise WireError("since must be before until")
    if step is None:
        step = next((step for step in STEPS if seconds / step <= 400), STEPS[-1])
    if step < 10 or step % 10:
        raise WireError("step must be a multiple of 10 seconds")
    age = (now - since).total_seconds()
    kept = KEPT[gpu_usage.name]
    for tier, coarser in ((10, MINUTE), (MINUTE, HOUR)):
        if age > kept[tier] and step % coarser:
            step = -(-step // coarser) * coarser
    if seconds / step > MOST_POINTS:
        raise WireError(f"so long a range takes a longer step: at most {MOST_POINTS} spans are given")
    return step


def series(points: list[Point]) -> dict[str, dict[str, list]]:
    """Means by GPU, as lists beside each other."""
    gpus: dict[str, dict[str, list]] = {}
    for point in points:
        amounts, lists = point.amounts, gpus.setdefault(point.gpu, {})
        if not amounts.ms:
            continue
        lists.setdefault("at", []).append(instant(datetime.fromtimestamp(point.at, UTC)))
        for name in SHOWN[1:]:
            mean = getattr(amounts, name) * 1000 * KIB // amounts.ms
            lists.setdefault(f"{name}_bytes", []).append(mean)
    return {gpu: lists for gpu, lists in gpus.items() if lists}


def won_back(points: list[Point]) -> Mapping[str, float]:
    """What was reclaimed in all."""
    gib_hours = sum(point.amounts.reclaimed for point in points) / GIB_IN_KIB / HOUR
    gpu_hours = gpu_hours_won_back(points)
    return {"reclaimed_gib_hours": round(gib_hours, 6), "reclaimed_gpu_hours": round(gpu_hours, 6)}
