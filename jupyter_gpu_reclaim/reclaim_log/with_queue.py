"""The log as a command reads it: the database, and what waits on this user's disk for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.core.wire import from_json
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log.disk_queue import DiskQueue
from jupyter_gpu_reclaim.reclaim_log.log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.matching import matches


class LogWithQueue:
    """Only reads, and takes no file from a server that uses it. One listing at a time."""

    def __init__(self, log: SqlReclaimLog, folder: Path) -> None:
        self._log = log
        self._queue = DiskQueue(folder)
        self._given: set[str] = set()

    async def query(
        self, *, after: str | None = None, limit: int = 100, **filters: Any
    ) -> tuple[list[Transition], str | None]:
        """See `SqlReclaimLog.query`. A first page has all rows that wait on disk, be they more than `limit`."""
        waiting = await asyncio.to_thread(self._waiting, filters) if after is None else []
        if after is None:
            self._given = {row.id for row in waiting}
        try:
            page, following = await self._log.query(
                after=after, limit=max(1, limit - len(waiting)), **filters
            )
        except LogUnavailable as error:
            kept = f" {len(waiting)} rows wait on disk for it, and are safe there." if waiting else ""
            raise LogUnavailable(f"{error}{kept}") from error
        fresh = [row for row in page if row.id not in self._given]
        return sorted([*waiting, *fresh], key=lambda row: row.at, reverse=True), following

    def _waiting(self, filters: dict[str, Any]) -> list[Transition]:
        try:
            rows = [from_json(Transition, json.loads(content)) for content in reversed(self._queue.seen())]
        except OSError as error:
            raise LogUnavailable(
                f"What waits on disk cannot be read: {error}. Nothing was changed."
            ) from error
        return list({row.id: row for row in rows if matches(row, **filters)}.values())
