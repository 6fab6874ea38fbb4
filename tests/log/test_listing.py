"""`jupyter gpu-reclaim log`: what a person and what a program gets."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas
import pytest
from contract.log_contract import NOON, SECOND, row

from jupyter_gpu_reclaim import cli
from jupyter_gpu_reclaim.core.model import Event, Reason
from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.reclaim_log import QueuedReclaimLog, SqlReclaimLog
from jupyter_gpu_reclaim.report import listing
from jupyter_gpu_reclaim.report.words import Misread, instant

GIB = 1 << 30
ROWS = [
    row(1, owner="ada", label="course/train.ipynb", reason=Reason.IDLE, footprint={"GPU-1": 3 * GIB},
        moved_bytes=3 * GIB, took=1.25 * SECOND, freed_bytes={"GPU-1": 2 * GIB}),
    row(2, at=NOON + SECOND, event=Event.PINNED, owner="ada", label="=cmd()", detail="über\nzwei Zeilen"),
    row(3, at=NOON + 1.5 * SECOND, event=Event.RESTORE_FAILED, owner="bob", simulated=True),
]  # fmt: skip


@pytest.fixture
def db_url(log: SqlReclaimLog, file: Path, jp_asyncio_loop: asyncio.AbstractEventLoop) -> str:
    """A log with ROWS in it."""
    jp_asyncio_loop.run_until_complete(log.append(ROWS))
    return f"sqlite:///{file}"


def test_a_table_for_people(db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a row, oldest first, with notebook, user, reason, bytes, time taken and detail on one line each."""
    assert cli.main(["log", "--db-url", db_url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["when", "event", "notebook", "user", "reason", "bytes", "took", "detail"]
    assert lines[1].split()[2:] == [
        "reclaim_done",
        "course/train.ipynb",
        "ada",
        "idle",
        "3.0",
        "GiB",
        "1.25",
        "s",
    ]
    assert lines[2].endswith("über zwei Zeilen")
    assert [len(lines), lines[3].split()[2]] == [4, "restore_failed"]
    assert cli.main(["log", "--db-url", db_url, "--limit", "1"]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]] == ["restore_failed"]


def test_filters(db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option keeps its rows; a word that means nothing is an error that says what would."""

    def ids(*options: str) -> list[str]:
        assert cli.main(["log", "--db-url", db_url, "--format", "jsonl", *options]) == 0
        return [json.loads(line)["id"][-1] for line in capsys.readouterr().out.splitlines()]

    assert ids() == ["3", "2", "1"]
    assert ids("--user", "ada") == ["2", "1"]
    assert ids("--notebook", "course/train.ipynb", "--gpu", "GPU-1", "--reason", "idle") == ["1"]
    assert ids("--event", "pinned", "--event", "restore_failed") == ["3", "2"]
    assert ids("--outcome", "failed") == ["3"]
    assert ids("--since", (NOON + SECOND).isoformat(), "--until", "2026-03-02") == ["3", "2"]
    for wrong in (["--reason", "because"], ["--since", "soon"], ["--outcome", "fine"], ["--limit", "0"],
                  ["--outcome", "done", "--event", "pinned"]):  # fmt: skip
        assert cli.main(["log", "--db-url", db_url, *wrong]) == 1
        assert wrong[1] in capsys.readouterr().err or wrong[0] == "--limit"


def test_programs_get_what_is_there(db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON Lines equal the rows; CSV opens in pandas with instants, numbers and truth values, formulas disarmed."""
    cli.main(["log", "--db-url", db_url, "--format", "jsonl"])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == to_json(ROWS[::-1])
    cli.main(["log", "--db-url", db_url, "--format", "csv"])
    table = pandas.read_csv(io.StringIO(capsys.readouterr().out), parse_dates=["at"])
    assert isinstance(table["at"].dtype, pandas.DatetimeTZDtype)
    assert list(table["at"]) == [pandas.Timestamp(one.at) for one in ROWS[::-1]]
    assert table["footprint_bytes"].tolist() == [0, 0, 3 * GIB]
    kinds = {"footprint_bytes": "i", "freed_bytes": "i", "moved_bytes": "f", "took_seconds": "f"}
    assert {name: table[name].dtype.kind for name in kinds} == kinds
    assert table["simulated"].tolist() == [True, False, False]
    assert table["label"].tolist()[1:] == ["'=cmd()", "course/train.ipynb"]
    assert table["detail"].tolist()[1] == "über\nzwei Zeilen"


async def test_following_shows_each_new_row_once(log: SqlReclaimLog, db_url: str) -> None:
    """Rows that come later are shown as they come, also one that is a little older, each once and in order."""
    shown: list[str] = []
    following = asyncio.create_task(
        listing.show_log(shown.append, db_url, "jsonl", 1, follow=True, filters={}, pause=0.01)
    )

    async def until(count: int) -> list[str]:
        async with asyncio.timeout(30):
            while sum(len(text.splitlines()) for text in shown) < count:
                await asyncio.sleep(0.01)
        return [json.loads(line)["id"][-1] for text in shown for line in text.splitlines()]

    assert await until(1) == ["3"]
    await log.append([row(4, at=NOON + 9 * SECOND), row(5, at=NOON + 8 * SECOND)])
    assert await until(3) == ["3", "5", "4"]
    await log.append([row(6, at=NOON + 7 * SECOND)])
    assert await until(4) == ["3", "5", "4", "6"]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def test_no_log_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked before the first reclaim it says so, and makes no file."""
    assert cli.main(["log", "--db-url", f"sqlite:///{tmp_path}/none.sqlite"]) == 1
    assert "There is no log" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_it_finds_the_log_that_jupyter_is_configured_with(
    db_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --db-url the log is where `jupyter_server_config.py` says."""
    (tmp_path / "jupyter_server_config.py").write_text(f"c.GpuReclaim.db_url = {db_url!r}\n")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    assert cli.main(["log", "--format", "csv"]) == 0
    assert len(list(pandas.read_csv(io.StringIO(capsys.readouterr().out))["id"])) == 3


def test_what_waits_on_disk_is_listed_too(
    db_url: str,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    jp_asyncio_loop: asyncio.AbstractEventLoop,
) -> None:
    """While the database takes no rows, those that wait are listed in their place; once it did, each is there once."""
    (tmp_path / "jupyter_server_config.py").write_text(f"c.GpuReclaim.db_url = {db_url!r}\n")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    run = jp_asyncio_loop.run_until_complete
    plain = SqlReclaimLog(db_url, patience=timedelta(milliseconds=50))
    server = QueuedReclaimLog(plain, tmp_path / "gpu_reclaim")
    holder = sqlite3.connect(file, isolation_level=None)

    def listed(*options: str) -> str:
        assert cli.main(["log", "--format", "jsonl", *options]) == 0
        return "".join(json.loads(line)["id"][-1] for line in capsys.readouterr().out.splitlines())

    try:
        holder.execute("BEGIN IMMEDIATE")
        run(server.append([row(4, at=NOON + 9 * SECOND, owner="ada"), row(5, at=NOON + 1.25 * SECOND)]))
        assert (server.waiting, listed()) == (2, "43521")
        assert (listed("--user", "ada"), listed("--limit", "1")) == ("421", "4")
        assert listed("--db-url", f"sqlite:///{file.parent}/../jupyter/{file.name}") == "321"
        holder.execute("ROLLBACK")
        run(server.handed_on())
        assert (server.waiting, listed()) == (0, "43521")
    finally:
        holder.close()
        run(server.close())


@pytest.mark.parametrize(
    ("word", "ago"), [("90m", timedelta(minutes=90)), ("7d", timedelta(days=7)), ("2w", timedelta(weeks=2))]
)
def test_spans_of_time(word: str, ago: timedelta) -> None:
    """`7d` is seven days ago, whatever the zone; what is no time is told so."""
    assert abs(datetime.now(UTC) - ago - instant(word)) < timedelta(minutes=1)
    with pytest.raises(Misread, match=f"{word}x"):
        instant(f"{word}x")
