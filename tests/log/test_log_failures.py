"""The log when its database fails: one clear error, nothing half-written, usable again as soon as the database is."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from contract.log_contract import everything, numbers, row
from sqlalchemy import Engine, event

from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog

NewLog = Callable[..., SqlReclaimLog]
NO_PATIENCE = timedelta(milliseconds=50)


@contextmanager
def held_by_another(file: Path, how: str = "EXCLUSIVE") -> Iterator[None]:
    """Another program holds the database locked."""
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute(f"BEGIN {how}")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


def run_sql(file: Path, *statements: str) -> list[tuple]:
    """Another program's statements, committed; the last one's rows."""
    other = sqlite3.connect(file)
    with other:
        for statement in statements:
            rows = other.execute(statement).fetchall()
    other.close()
    return rows


async def problem_of_append(log: SqlReclaimLog, *rows: Transition) -> str:
    """What the log says when it cannot append."""
    with pytest.raises(LogUnavailable) as raised:
        await log.append(rows or [row(1)])
    return str(raised.value)


async def problem_of_query(log: SqlReclaimLog) -> str:
    """What the log says when it cannot be read."""
    with pytest.raises(LogUnavailable) as raised:
        await log.query()
    return str(raised.value)


async def test_a_locked_database(new_log: NewLog, file: Path) -> None:
    """A lock held longer than our patience is named; nothing was written, and once it is gone the same rows go in."""
    log = new_log(patience=NO_PATIENCE)
    await log.append([row(1)])
    with held_by_another(file):
        said = await problem_of_append(log, row(2))
    assert (
        f"The reclaim log sqlite:///{file} could not be written: another program holds the database locked"
        in said
    )
    assert "None of these rows was written" in said
    assert numbers(await everything(log)) == [1]
    await log.append([row(2)])
    assert numbers(await everything(log)) == [2, 1]


async def test_a_lock_at_the_first_use(new_log: NewLog, file: Path) -> None:
    """A new database that another program holds locked can be opened, tables and all, once the lock is gone."""
    log = new_log(patience=NO_PATIENCE)
    file.parent.mkdir(parents=True)
    with held_by_another(file):
        said = await problem_of_query(log)
    assert "could not be opened: another program holds the database locked" in said
    await log.append([row(1)])
    assert numbers(await everything(log)) == [1]


async def test_no_answer_within_the_bound(new_log: NewLog, file: Path) -> None:
    """A call answers within its bound though the database does not; appending again after it writes each row once."""
    log = new_log(answer_within=timedelta(seconds=1), patience=timedelta(minutes=5))
    patient = new_log()
    await patient.open()
    try:
        with held_by_another(file):
            said = await problem_of_append(log, row(1))
            assert "did not answer within 1 s. These rows may still be written" in said
            queued = await problem_of_append(log, row(2))
            assert "did not answer within 1 s. None of these rows was written" in queued
    finally:
        await log.close()  # the first append ends now that the lock is gone; the others had been dropped
    await patient.append([row(1)])
    assert numbers(await everything(patient)) == [1]


async def test_closing_a_log_that_hangs(new_log: NewLog, file: Path) -> None:
    """Closing waits no longer than its timeout for a call that does not end; that call's thread holds up no exit."""
    log = new_log(patience=timedelta(minutes=5))
    await log.open()
    with held_by_another(file):
        append = asyncio.ensure_future(log.append([row(1)]))
        await asyncio.sleep(0)
        await log.close(timeout=timedelta(milliseconds=50))
        assert not append.done()
        assert [thread.daemon for thread in threading.enumerate() if thread.name == "gpu-reclaim-log"] == [
            True
        ]
    await append


async def test_a_database_that_may_only_be_read(new_log: NewLog, file: Path) -> None:
    """A log that cannot be written says so, and can still be read."""
    log = new_log()
    await log.append([row(1)])
    reader = new_log(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert numbers(await everything(reader)) == [1]
    said = await problem_of_append(reader, row(2))
    assert (
        "could not be written: the database cannot be written (attempt to write a readonly database)" in said
    )
    assert "write permission" in said
    assert numbers(await everything(reader)) == [1]


async def test_a_folder_that_cannot_be_made(new_log: NewLog, file: Path) -> None:
    """A path that leads nowhere is named with its cause; when it leads somewhere the log works."""
    log = new_log()
    obstacle = file.parent.parent
    obstacle.write_text("no folder")
    said = await problem_of_append(log)
    assert f"The reclaim log sqlite:///{file} could not be opened: its file or folder cannot be used" in said
    obstacle.unlink()
    await log.append([row(1)])
    assert numbers(await everything(log)) == [1]


async def test_a_full_disk(log: SqlReclaimLog, file: Path) -> None:
    """Rows that no longer fit are refused together, those before them stay, and with room again they go in."""
    await log.append([row(1)])
    await log.close()
    room = {"pages": 14}

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {room['pages']}")

    small = SqlReclaimLog(f"sqlite:///{file}")
    rows = [row(n, detail="x" * 5000) for n in range(2, 40)]
    event.listen(Engine, "connect", limit)
    try:
        said = await problem_of_append(small, *rows)
        assert "could not be written: the disk is full" in said
        room["pages"] = 10_000
        assert numbers(await everything(small)) == [1]
        await small.append(rows)
        assert len(await everything(small)) == 39
    finally:
        event.remove(Engine, "connect", limit)
        await small.close()


async def test_a_file_that_is_no_database(new_log: NewLog, file: Path) -> None:
    """A damaged file is left exactly as it is, and once it is moved away a new log is begun."""
    log = new_log()
    file.parent.mkdir(parents=True)
    damage = b"not a database, but perhaps somebody's work " * 100
    file.write_bytes(damage)
    said = await problem_of_append(log)
    assert "the file is damaged or is no database" in said
    assert "Move it away" in said
    assert file.read_bytes() == damage
    file.rename(file.with_suffix(".damaged"))
    await log.append([row(1)])
    assert numbers(await everything(log)) == [1]


async def test_a_file_that_is_replaced_while_it_is_open(log: SqlReclaimLog, file: Path) -> None:
    """When the file is removed or swapped under an open log, rows go to the file that has the name now."""
    await log.append([row(1)])
    for path in list(file.parent.iterdir()):
        path.rename(path.with_name("old-" + path.name))
    await log.append([row(2)])
    assert run_sql(file, "SELECT count(*) FROM reclaim_transitions") == [(1,)]
    assert numbers(await everything(log)) == [2]


async def test_a_newer_schema(new_log: NewLog, file: Path) -> None:
    """A database that a newer version has migrated is refused and left alone, with the advice to upgrade."""
    log = new_log()
    await log.append([row(1)])
    await log.close()
    run_sql(file, "UPDATE reclaim_log_version SET version_num = 'z999'")
    before = file.read_bytes()
    said = await problem_of_append(new_log(), row(2))
    assert "could not be opened: a newer version of jupyter_gpu_reclaim wrote it (its schema is z999" in said
    assert "Upgrade jupyter_gpu_reclaim" in said
    assert file.read_bytes() == before


async def test_a_word_of_a_newer_version(log: SqlReclaimLog, file: Path) -> None:
    """A row whose event this version does not know is neither hidden nor guessed: reading says what to do."""
    await log.append([row(1)])
    run_sql(file, "UPDATE reclaim_transitions SET event = 'teleported'")
    said = await problem_of_query(log)
    assert "teleported" in said
    assert "Upgrade jupyter_gpu_reclaim" in said
    await log.append([row(2)])
    assert numbers((await log.query(limit=1))[0]) == [2]


async def test_tables_that_are_not_ours(log: SqlReclaimLog, file: Path) -> None:
    """A table that was dropped by hand is reported as such, not made again over whatever happened."""
    await log.append([row(1)])
    run_sql(file, "DROP TABLE reclaim_transition_gpus")
    said = await problem_of_append(log, row(2, footprint={"GPU-1": 1}))
    assert "its tables are not those of this log" in said
    assert run_sql(file, "SELECT count(*) FROM reclaim_transitions") == [(1,)]


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("no url at all", "db_url is not understood"),
        ("nosuch://gpu:secret@localhost/log", "db_url is not understood"),
        ("oracle+cx_oracle://gpu:secret@localhost/log", "pip install cx_Oracle"),
    ],
)
async def test_a_url_that_leads_to_no_database(new_log: NewLog, url: str, cause: str) -> None:
    """A wrong db_url is an error of the log, not of the server that starts with it, and never shows its password."""
    log = new_log(url)
    for said in (await problem_of_append(log), await problem_of_query(log)):
        assert cause in said
        assert "secret" not in said


async def test_a_closed_log(new_log: NewLog) -> None:
    """After closing, every call is refused at once."""
    log = new_log()
    await log.append([row(1)])
    await log.close()
    assert "is closed" in await problem_of_append(log)
    assert "is closed" in await problem_of_query(log)
