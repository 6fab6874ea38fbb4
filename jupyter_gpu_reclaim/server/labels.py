"""What a kernel is called: the path of its notebook, as Jupyter's sessions have it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import datetime, timedelta
from logging import LoggerAdapter
from typing import Any

from jupyter_core.utils import ensure_async

FRESH_FOR = timedelta(seconds=30)  # notebooks are renamed now and then
# A kernel may be there before its notebook; and JupyterLab gives a new session a made-up path, soon its notebook's.
ASKED_AGAIN_AFTER = timedelta(seconds=5)


class NotebookLabels:
    """The path of each kernel's notebook, looked up when a kernel is new, and again now and then."""

    def __init__(self, session_manager: Any, log: LoggerAdapter) -> None:
        self._session_manager = session_manager
        self._log = log
        self._paths: dict[str, str] = {}
        self._read_at: datetime | None = None
        self._asked: set[str] = set()  # the kernels at the last reading
        self._newcomers: set[str] = set()  # those of them that were not there at the one before

    async def paths(self, kernel_ids: Collection[str], now: datetime) -> dict[str, str]:
        """Notebook path by kernel id; kernels without a notebook are left out."""
        names = set(kernel_ids)
        is_settled = not self._newcomers and self._paths.keys() >= names
        wait = FRESH_FOR if is_settled else ASKED_AGAIN_AFTER
        if self._read_at is None or now - self._read_at >= wait or not self._asked >= names:
            self._newcomers, self._asked, self._read_at = names - self._asked, names, now
            self._paths = await self._read()
            # Jupyter answers without a pause; others should not wait for our look as well.
            await asyncio.sleep(0)
        return self._paths

    async def _read(self) -> dict[str, str]:
        try:
            sessions = await ensure_async(self._session_manager.list_sessions())
        except (
            Exception
        ) as error:  # another package's session manager may fail in any way; labels are only names
            self._log.warning("Notebook paths cannot be read; kernels show without: %s", error)
            return self._paths
        return {session["kernel"]["id"]: session["path"] for session in sessions if session.get("kernel")}
