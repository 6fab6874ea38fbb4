"""From many pushes to few transactions: rows are answered once they are written, statuses are written behind."""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.hub.records import SeenServer
from jupyter_gpu_reclaim.hub.store import HubStore
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog

logger = logging.getLogger(__name__)

STATUS_SECONDS = 2.0  # between two writes of statuses
SEEN_AGAIN = timedelta(minutes=1)  # an unchanged status is only said to be seen, so often
MOST_ROWS_AT_ONCE = 2000

Key = tuple[str, str]


class RowIngest:
    """Appends rows of pushes that come at the same time in one transaction."""

    def __init__(self, log: SqlReclaimLog) -> None:
        self._log = log
        self._waiting: list[tuple[Sequence[Transition], asyncio.Future[None]]] = []
        self._writing: asyncio.Task | None = None

    async def take(self, rows: Sequence[Transition]) -> None:
        """Returns once the rows are in the log, each once. Raises `LogUnavailable`: they may be pushed again."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="hub rows")
        await done

    async def _write(self) -> None:
        while self._waiting:
            batch = self._next()
            try:
                await self._log.append([row for rows, _ in batch for row in rows])
            except BaseException as error:  # all of them wait for this answer, whatever it is
                told = error if isinstance(error, LogUnavailable) else LogUnavailable(f"{error!r}")
                for _, done in batch:
                    if not done.done():
                        done.set_exception(told)
                if not isinstance(error, LogUnavailable):
                    raise
            else:
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)

    def _next(self) -> list[tuple[Sequence[Transition], asyncio.Future[None]]]:
        count, batch = 0, []
        while self._waiting and (not batch or count + len(self._waiting[0][0]) <= MOST_ROWS_AT_ONCE):
            batch.append(self._waiting.pop(0))
            count += len(batch[-1][0])
        return batch


class StatusIngest:
    """Keeps each server's newest status and writes what has changed every two seconds, all servers' together."""

    def __init__(self, store: HubStore) -> None:
        self._store = store
        self._changed: dict[Key, SeenServer] = {}
        self._seen: dict[Key, SeenServer] = {}
        self._written: dict[
            Key, tuple[int, datetime]
        ] = {}  # checksum of the status, when it was said to be seen
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="hub statuses")

    async def stop(self) -> None:
        """Write what is left, if the database takes it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()

    def take(self, seen: SeenServer) -> None:
        """The newest word of a server."""
        key = seen.user, seen.server
        checksum = zlib.crc32(json.dumps(dict(seen.status, taken_at=None), sort_keys=True).encode())
        before = self._written.get(key)
        if before is None or before[0] != checksum:
            self._written[key] = checksum, seen.seen_at
            self._changed[key] = seen
        elif key in self._changed:
            self._changed[key] = seen
        elif seen.seen_at - before[1] >= SEEN_AGAIN:
            self._written[key] = checksum, seen.seen_at
            self._seen[key] = seen

    def forget(self, keys: set[Key]) -> None:
        """These are gone; what they said last stays in the database."""
        for key in keys:
            self._written.pop(key, None)

    def known(self) -> set[Key]:
        """Whose last status is remembered."""
        return set(self._written)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        changed, self._changed = self._changed, {}
        seen, self._seen = self._seen, {}
        try:
            await self._store.put_servers(list(changed.values()))
            await self._store.touch_servers(list(seen.values()))
        except LogUnavailable as error:
            logger.warning("Statuses were not written: %s", error)
            self._changed = changed | self._changed
            self._seen = seen | self._seen
