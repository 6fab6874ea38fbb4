"""A log in a fresh SQLite file, closed when the test is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite(
    "contract.log_contract", "contract.retention_contract", "contract.usage_contract"
)

from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog  # noqa: E402


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the log lies, in a folder that is not there yet."""
    return tmp_path / "share" / "jupyter" / "log.sqlite"


@pytest.fixture
def new_log(jp_asyncio_loop: asyncio.AbstractEventLoop, file: Path) -> Iterator[Callable[..., SqlReclaimLog]]:
    """Makes logs, on `file` unless another URL is given: each is a server of its own."""
    logs: list[SqlReclaimLog] = []

    def make(url: str | None = None, **options: Any) -> SqlReclaimLog:
        logs.append(SqlReclaimLog(url or f"sqlite:///{file}", **options))
        return logs[-1]

    yield make
    for log in logs:
        jp_asyncio_loop.run_until_complete(log.close())


@pytest.fixture
def log(new_log: Callable[..., SqlReclaimLog]) -> SqlReclaimLog:
    """One log on `file`."""
    return new_log()
