"""Retention on SQLite, and what becomes of samples and of the row that tells of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from contract.log_contract import NOON, everything, row
from contract.retention_contract import RetentionContract
from contract.usage_contract import GPUS, span

from jupyter_gpu_reclaim.core.model import Event
from jupyter_gpu_reclaim.reclaim_log import QueuedReclaimLog, SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.retention import Retention


class TestSqliteRetention(RetentionContract):
    """All of it, on a file."""


async def test_it_is_itself_logged_and_takes_samples_along(log: SqlReclaimLog, tmp_path: Path) -> None:
    """What was deleted is a row of the log, and samples of the same age are gone with it."""
    queued = QueuedReclaimLog(log, tmp_path / "queue", answer_within=timedelta(minutes=1))
    usage = queued.usage("ada")
    noon = int(NOON.timestamp())
    await queued.append([row(1, at=NOON - timedelta(days=40))])
    await usage.write([span(noon - 40 * 86400), span(noon - 86400)], GPUS)
    await queued.retain(Retention(timedelta(days=30), None), NOON)
    (told,) = await everything(log)
    assert (told.event, told.at) == (Event.ROWS_DELETED, NOON)
    assert told.detail.startswith("1 rows")
    assert [point.at for point in await usage.points(0, noon, 3600)] == [noon - 86400]
    await queued.close()
