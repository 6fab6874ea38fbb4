"""The log on SQLite: the port's promises, and what the file promises beside them."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from contract.log_contract import NOON, SECOND, LogContract, everything, numbers, row
from sqlalchemy import Engine, event

from jupyter_gpu_reclaim.core.model import Event, Reason
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog

NewLog = Callable[..., SqlReclaimLog]


class TestSqlite(LogContract):
    """The whole contract, on a file."""


async def test_rows_outlive_the_server(new_log: NewLog) -> None:
    """What was appended is there for the next server, in the same order."""
    first = new_log()
    await first.append([row(1), row(2)])
    await first.close()
    assert numbers(await everything(new_log())) == [2, 1]


async def test_rows_are_durable_before_append_returns(log: SqlReclaimLog, file: Path) -> None:
    """A row is in the file, synchronised, when append returns: another reader sees it while the log stays open."""
    await log.append([row(1)])
    with sqlite3.connect(file) as other:
        assert other.execute("SELECT count(*) FROM reclaim_transitions").fetchone() == (1,)
    other.close()


def modes_in(folder: Path) -> dict[str, int]:
    """Permissions by file name."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def make_readable_by_group(file: Path) -> None:
    """An empty file that its group may read."""
    file.parent.mkdir(parents=True)
    file.touch()
    file.chmod(0o640)


async def test_the_file_is_private(log: SqlReclaimLog, file: Path) -> None:
    """The file, and SQLite's files beside it, can be read by their owner only; the folders are made."""
    await log.append([row(1)])
    assert modes_in(file.parent) == {"log.sqlite": 0o600, "log.sqlite-wal": 0o600, "log.sqlite-shm": 0o600}


async def test_a_file_that_was_there_keeps_its_mode(log: SqlReclaimLog, file: Path) -> None:
    """An operator who lets a group read the log is not overruled."""
    make_readable_by_group(file)
    await log.append([row(1)])
    assert modes_in(file.parent)["log.sqlite"] == 0o640


async def test_two_servers_on_one_file(new_log: NewLog) -> None:
    """Two servers that open a new file and append the same rows at the same moment write each row once."""
    one, other = new_log(), new_log()
    rows = [row(n) for n in range(1, 31)]
    await asyncio.gather(*(log.append([each]) for each in rows for log in (one, other)))
    assert sorted(numbers(await everything(one))) == list(range(1, 31))
    assert await everything(one) == await everything(other)


OPEN_AND_APPEND = """
import asyncio, sys
from contract.log_contract import row
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog

async def main(url, number):
    log = SqlReclaimLog(url)
    print("ready", flush=True)
    sys.stdin.readline()
    await log.append([row(number)])
    await log.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def start_server(url: str, number: int) -> subprocess.Popen[str]:
    """A process that appends row `number` once it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_APPEND, url, str(number)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_processes_that_open_a_new_file_at_once(log: SqlReclaimLog, file: Path) -> None:
    """Servers that start together on a database that is not there yet all get to write to it."""
    servers = [start_server(f"sqlite:///{file}", number) for number in range(1, 5)]
    assert [server.stdout.readline() for server in servers] == ["ready\n"] * 4
    for server in servers:
        server.stdin.write("go\n")
        server.stdin.flush()
    assert [server.communicate(timeout=120)[1] for server in servers] == [""] * 4
    assert sorted(numbers(await everything(log))) == [1, 2, 3, 4]


async def test_the_loop_runs_while_the_database_waits(log: SqlReclaimLog, file: Path) -> None:
    """An append that waits for another program's lock leaves the event loop free, and is done once the lock is gone."""
    await log.open()
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    append = asyncio.ensure_future(log.append([row(1)]))
    await asyncio.sleep(0)
    assert not append.done()
    holder.execute("ROLLBACK")  # only a free loop comes to this
    holder.close()
    await append
    assert numbers(await everything(log)) == [1]


async def test_an_append_given_up_before_its_turn(log: SqlReclaimLog, file: Path) -> None:
    """A cancelled append whose turn had not come writes nothing; the one under way before it is done."""
    await log.open()
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    first = asyncio.ensure_future(log.append([row(1)]))
    second = asyncio.ensure_future(log.append([row(2)]))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    holder.execute("ROLLBACK")
    holder.close()
    await first
    assert second.cancelled()
    assert numbers(await everything(log)) == [1]


async def test_closing_finishes_what_was_begun(new_log: NewLog) -> None:
    """Rows handed over before close are written by it; closing twice is harmless."""
    log = new_log()
    appends = [asyncio.ensure_future(log.append([row(n)])) for n in range(1, 6)]
    await asyncio.sleep(0)
    await log.close()
    await log.close()
    await asyncio.gather(*appends)
    assert sorted(numbers(await everything(new_log()))) == [1, 2, 3, 4, 5]


async def test_text_that_databases_refuse(log: SqlReclaimLog) -> None:
    """A label from an odd file name (undecodable bytes, a NUL) is written with escapes rather than losing its row."""
    await log.append([row(1, label="nb\udcff.ipynb", detail="a\0b", footprint={"GPU-\ud800": 1})])
    [found] = await everything(log)
    assert (found.label, found.detail) == ("nb\\udcff.ipynb", "a\\x00b")
    assert numbers(await everything(log, gpu="GPU-\ud800")) == [1]


async def test_instants_that_are_none(log: SqlReclaimLog) -> None:
    """A naive instant (it could be any of two dozen) is refused in rows and filters; so is one before year 1."""
    naive = datetime(2026, 3, 1)
    with pytest.raises(ValueError, match="naive"):
        await log.append([row(1, at=naive)])
    with pytest.raises(ValueError, match="naive"):
        await log.query(since=naive)
    with pytest.raises(ValueError, match="no such instant"):
        await log.query(until=datetime.min.replace(tzinfo=timezone(timedelta(hours=1))))
    with pytest.raises(ValueError, match="limit"):
        await log.query(limit=0)
    assert await everything(log) == []


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "reclaim_transitions_newest"),
        ({"since": NOON, "until": NOON + SECOND}, "reclaim_transitions_newest"),
        ({"events": [Event.LOST]}, "reclaim_transitions_event"),
        ({"owner": "ada"}, "reclaim_transitions_owner"),
        ({"label": "a.ipynb", "until": NOON + SECOND}, "reclaim_transitions_label"),
        ({"mechanism": "torch_offload"}, "reclaim_transitions_mechanism"),
        ({"kernel_id": "k"}, "reclaim_transitions_kernel"),
        (
            {"kernel_id": "k", "events": [Event.LOST, Event.PINNED], "since": NOON},
            "reclaim_transitions_kernel",
        ),
        ({"reason": Reason.IDLE}, "reclaim_transitions_reason"),
        ({"gpu": "GPU-1"}, "sqlite_autoindex_reclaim_transition_gpus_1"),
        ({"gpu": "GPU-1", "since": NOON}, "sqlite_autoindex_reclaim_transition_gpus_1"),
        ({"whose": "ada", "label": "a.ipynb"}, "reclaim_transitions_label"),
        ({"whose": "ada", "kernel_id": "k", "gpu": "GPU-1"}, "sqlite_autoindex_reclaim_transition_gpus_1"),
    ],
)
async def test_pages_are_read_off_an_index(log: SqlReclaimLog, file: Path, filters: dict, index: str) -> None:
    """The first page and a later one come from the index made for the filter, in order: nothing is sorted."""
    await log.append([row(n, reason=Reason.IDLE, footprint={"GPU-1": 1}, kernel_id="k") for n in range(1, 4)])
    for plan in await plans_of(log, file, filters):
        assert index in plan[0], plan
        assert not [step for step in plan if "TEMP B-TREE" in step], plan


@pytest.mark.parametrize(
    "filters",
    [
        {"whose": "ada"},
        {"owner": "ada", "reason": Reason.IDLE},
        {"whose": "ada", "mechanism": "torch_offload"},
        {"whose": "ada", "events": [Event.LOST, Event.PINNED], "since": NOON},
        {"whose": "ada", "gpu": "GPU-1"},
    ],
)
async def test_one_users_pages_are_read_off_an_index(log: SqlReclaimLog, file: Path, filters: dict) -> None:
    """Which of a user's rows pass is told from their index alone; then no more than a page is read, and sorted."""
    await log.append([row(n) for n in range(1, 4)])
    for plan in await plans_of(log, file, filters):
        looked_at = [step for step in plan if "reclaim_transitions " in step]
        assert looked_at[0] == "SEARCH reclaim_transitions USING INTEGER PRIMARY KEY (rowid=?)", plan
        assert all("COVERING INDEX reclaim_transitions_owner" in step for step in looked_at[1:]), plan
        assert [step for step in plan if "TEMP B-TREE" in step] == plan[-1:], plan


async def plans_of(log: SqlReclaimLog, file: Path, filters: dict) -> list[list[str]]:
    """How SQLite would find the first page and a later one: the steps of each."""
    asked: list[tuple[str, tuple]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: tuple, *_: object) -> None:
        if "SELECT" in statement:
            asked.append((statement, parameters))

    _, after = await log.query(limit=1)
    event.listen(Engine, "before_cursor_execute", note)
    try:
        await log.query(**filters)
        await log.query(**filters, after=after)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(asked) == 2
    with sqlite3.connect(file) as other:
        plans = [
            [step[3] for step in other.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            for statement, parameters in asked
        ]
    other.close()
    return plans
