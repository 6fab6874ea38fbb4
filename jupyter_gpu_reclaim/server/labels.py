"""What a kernel is called: the path of its notebook, as Jupyter's sessions have it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from logging import LoggerAdapter
from typing import Any

from jupyter_core.utils import ensure_async

FRESH_FOR = timedelta(seconds=30)  # notebooks are renamed now and then


class NotebookLabels:
    """The path of each kernel's notebook, looked up when a kernel is new and every half minute."""

    def __init__(self, session_manager: Any, log: LoggerAdapter) -> None:
        self._session_manager = session_manager
        self._log = log
        self._paths: dict[str, str] = {}
        self._read_at: datetime | None = None

    async def paths(self, kernel_ids: Collection[str], now: datetime) -> dict[str, str]:
        """Notebook path by kernel id; kernels without a notebook are left out."""
        fresh = self._read_at is not None and now - self._read_at < FRESH_FOR
        if not (fresh and self._paths.keys() >= set(kernel_ids)):
            self._paths, self._read_at = await self._read(), now
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
