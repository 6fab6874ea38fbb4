"""A report from the database: which samples, and what is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jupyter_gpu_reclaim.core.energy import Assumptions
from jupyter_gpu_reclaim.core.savings import Report, report
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore
from jupyter_gpu_reclaim.reclaim_log.usage_rows import DAY, HOUR, MINUTE
from jupyter_gpu_reclaim.report.carbon import intensity

MINUTES_FOR = 2 * DAY
"""The course of a longer time is told by the hour."""


def assumed(settings: Mapping[str, Any]) -> Assumptions:
    """The assumptions as the settings of these names have them; 0 and "" are unset. Raises `NoIntensity`."""
    grams, source = settings.get("grid_grams_per_kwh") or None, "as set"
    if grams is None and settings.get("country"):
        grams, source = intensity(settings["country"])
    return Assumptions(
        price_per_gpu_hour=settings.get("price_per_gpu_hour") or None,
        currency=settings.get("currency", ""),
        pue=settings.get("pue") or 1.0,
        grams_per_kwh=grams,
        grid_source=source,
        context_watts=settings.get("context_watts") or None,
    )


async def make(store: UsageStore, since: datetime, until: datetime, assumptions: Assumptions) -> Report:
    """The report of the whole hours that `since` to `until` touches, of all servers that `store` reads.

    Raises `LogUnavailable`, and ValueError where `since` is not before `until`.
    """
    if until <= since:
        raise ValueError("since must be before until")
    begin, end = int(since.timestamp()) // HOUR * HOUR, -(-int(until.timestamp()) // HOUR) * HOUR
    now = datetime.now(UTC)
    step = MINUTE if end - begin <= MINUTES_FOR and now.timestamp() - begin <= 7 * DAY else HOUR
    return report(
        since=datetime.fromtimestamp(begin, UTC),
        until=min(datetime.fromtimestamp(end, UTC), max(until, now)),
        step_seconds=step,
        points=await store.points(begin, end, step, every_source=True),
        shares=await store.shares(begin, end),
        gpu_names=await store.gpus(),
        restores=await store.restores(begin, end),
        assumptions=assumptions,
    )
