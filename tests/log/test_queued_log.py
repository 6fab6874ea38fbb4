"""The log with its queue on disk: rows are taken whatever the database does, and come to it once each, in order."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.log_contract import NOON, SECOND, LogContract, everything, numbers, row

from jupyter_gpu_reclaim.core.model import Event
from jupyter_gpu_reclaim.ports import BadCursor, LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import PersonalData, QueuedReclaimLog, SqlReclaimLog

NewLog = Callable[..., SqlReclaimLog]
NewQueued = Callable[..., QueuedReclaimLog]
PATIENT = timedelta(minutes=1)


@pytest.fixture
def new_queued(
    new_log: NewLog, file: Path, jp_asyncio_loop: asyncio.AbstractEventLoop
) -> Iterator[NewQueued]:
    """Makes logs with a queue, all on `file` and in one folder: servers of one user, one after another or at once.

    What goes to the disk is what the database refused, however slow the machine.
    """
    made: list[QueuedReclaimLog] = []

    def make(**options: Any) -> QueuedReclaimLog:
        plain = new_log(patience=timedelta(milliseconds=50))
        made.append(QueuedReclaimLog(plain, file.parent / "queue", **{"answer_within": PATIENT, **options}))
        return made[-1]

    yield make
    for one in made:
        jp_asyncio_loop.run_until_complete(one.close())


@pytest.fixture
def log(new_queued: NewQueued) -> QueuedReclaimLog:
    """One log."""
    return new_queued()


@pytest.fixture
def locked(file: Path) -> Iterator[Callable[[], None]]:
    """Another program holds the database locked until the function is called."""
    file.parent.mkdir(parents=True, exist_ok=True)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    yield lambda: holder.execute("ROLLBACK") and None
    holder.close()


class TestQueued(LogContract):
    """The whole contract, with the queue in front."""


async def test_rows_wait_on_disk_and_are_handed_on(
    log: QueuedReclaimLog, new_log: NewLog, locked: Callable[[], None]
) -> None:
    """While the database is locked rows are taken and it is said why; then each is in it once, in the order taken."""
    for n in range(1, 6):
        await log.append([row(n)])
    await log.append([row(5), row(6)])
    assert log.waiting == 7
    assert "7 rows of the reclaim log wait on disk" in log.complaint()
    assert "another program holds the database locked" in log.complaint()
    locked()
    await log.handed_on()
    assert (log.waiting, log.complaint()) == (0, None)
    assert numbers(await everything(new_log())) == [6, 5, 4, 3, 2, 1]


async def test_a_database_that_is_slow_holds_nobody_up(new_queued: NewQueued, new_log: NewLog) -> None:
    """Rows that it has not taken in time are taken by the disk, and are read and written once, taken late or not."""
    log = new_queued(answer_within=timedelta(0))
    await log.append([row(1), row(2)])
    assert log.waiting == 2
    assert "has not answered within 0 s" in log.complaint()
    assert numbers(await everything(log)) == [2, 1]
    await log.handed_on()
    assert (log.waiting, log.complaint()) == (0, None)
    assert numbers(await everything(new_log())) == [2, 1]


async def test_rows_that_wait_are_read_with_the_others(
    log: QueuedReclaimLog, locked: Callable[[], None], new_queued: NewQueued, new_log: NewLog
) -> None:
    """A server that starts with rows waiting reads them as if they were in the database: none missing, none twice."""
    locked()
    await log.append([row(1, kernel_id="a")])
    holder = sqlite3.connect(new_log()._database._db_url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")  # others may read, but not write
    await log.append([row(2, kernel_id="a", at=NOON + SECOND), row(3, kernel_id="b")])
    assert log.waiting == 2
    await log.close()
    second = new_queued()
    await second.open()
    found, _ = await second.query(kernel_id="a")
    assert numbers(found) == [2, 1]
    first, after = await second.query(limit=1)
    assert numbers(first) == [2, 3, 1]
    assert after is None
    holder.execute("ROLLBACK")
    holder.close()
    await second.handed_on()
    assert numbers(await everything(new_log())) == [2, 3, 1]


async def test_a_listing_that_begins_in_an_outage_and_ends_after_it(
    log: QueuedReclaimLog, new_log: NewLog, file: Path
) -> None:
    """Rows that were waiting at the first page and are in the database at the second are given once all the same."""
    await log.append([row(n) for n in range(1, 5)])
    with sqlite3.connect(file, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        await log.append([row(n, at=NOON - n * SECOND) for n in range(5, 9)])
        page, after = await log.query(limit=2)
        assert numbers(page) == [5, 6, 7, 8, 4]
        holder.execute("ROLLBACK")
    holder.close()
    await log.handed_on()
    assert log.waiting == 0
    while after is not None:
        more, after = await log.query(limit=2, after=after)
        page += more
    assert numbers(page) == [5, 6, 7, 8, 4, 3, 2, 1]
    with pytest.raises(BadCursor):
        await log.query(after="MTI6~99")


async def test_what_had_to_be_dropped_is_told(
    new_queued: NewQueued, new_log: NewLog, locked: Callable[[], None]
) -> None:
    """Rows that the full queue gave up are counted in the status and, once the database is back, in the log itself."""
    log = new_queued(half_bytes=2000)
    for n in range(1, 21):
        await log.append([row(n)])
    lost = log.dropped
    assert lost + log.waiting == 20
    assert f"{lost} older rows were lost" in log.complaint()
    locked()
    await log.handed_on()
    rows = await everything(new_log())
    found = numbers([one for one in rows if one.event is not Event.ROWS_LOST])
    told = sum(int(one.detail.split()[0]) for one in rows if one.event is Event.ROWS_LOST)
    assert found[: 20 - lost] == list(range(20, lost, -1))
    assert found == sorted(set(found), reverse=True)
    assert told == 20 - len(found) > 0
    assert log.complaint() is None


async def test_only_when_the_disk_fails_too_is_a_row_refused(
    log: QueuedReclaimLog, file: Path, locked: Callable[[], None]
) -> None:
    """With neither database nor queue the row is refused, with both causes; with the queue back it is taken."""
    (file.parent / "queue").write_text("no folder")
    with pytest.raises(LogUnavailable) as raised:
        await log.append([row(1)])
    assert "locked" in str(raised.value)
    assert "queue on disk" in str(raised.value)
    (file.parent / "queue").unlink()
    await log.append([row(1)])
    assert log.waiting == 1


async def test_alarms_are_known_without_the_database(
    log: QueuedReclaimLog, new_queued: NewQueued, locked: Callable[[], None], file: Path
) -> None:
    """What alarms the log has is known to the next server though its database is gone; before it was ever read, not."""
    alarms = {"events": (Event.ALARM_RAISED, Event.ALARM_CLEARED)}
    with pytest.raises(LogUnavailable):
        await log.query(**alarms)
    locked()
    assert await log.query(**alarms) == ([], None)
    raised = row(1, event=Event.ALARM_RAISED, footprint={"GPU-1": 1})
    await log.append([raised, row(2)])
    await log.close()
    file.write_bytes(b"damaged " * 1000)
    second = new_queued()
    cleared = row(3, event=Event.ALARM_CLEARED, at=NOON + SECOND)
    assert await second.query(**alarms) == ([raised], None)
    await second.append([cleared])
    assert await second.query(**alarms) == ([cleared, raised], None)
    with pytest.raises(LogUnavailable):
        await second.query()


@pytest.mark.parametrize("mode", ["hashed", "omitted"])
async def test_names_are_kept_as_the_setting_says(
    new_queued: NewQueued, new_log: NewLog, tmp_path: Path, mode: str
) -> None:
    """No name reaches database or disk; hashed, one name is one word, which a filter for the name finds."""
    log = new_queued(personal=PersonalData.kept(mode, tmp_path / "key"))
    named = row(1, owner="ada", label="secret/plan.ipynb", actor="grace")
    await log.append([named, row(2, owner="ada"), row(3)])
    rows = await everything(new_log())
    assert not {"ada", "grace", "secret/plan.ipynb"} & {
        name for one in rows for name in (one.owner, one.label, one.actor)
    }
    assert [replace(one, owner="", label="", actor="") for one in rows] == [row(3), row(2), row(1)]
    found = numbers(await everything(log, owner="ada"))
    if mode == "hashed":
        assert found == [2, 1]
        assert rows[2].owner == rows[1].owner != rows[2].label
        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
        again = PersonalData.kept(mode, tmp_path / "key")
        assert again.word("ada") == rows[1].owner != PersonalData.kept(mode, tmp_path / "other").word("ada")
        assert numbers(await everything(log, owner=rows[1].owner)) == [2, 1]
    else:
        assert found == []
        assert {one.owner for one in rows} == {""}
