"""What the REST API tells of the past: usage over time, totals, filters, exports."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_handlers import Call, call, extension, jp_server_config  # noqa: F401 (fixtures)
from tornado.httpclient import HTTPClientError
from tornado.iostream import StreamClosedError

from jupyter_gpu_reclaim.core.model import Event, Gpu, Holding, Phase, Policy, Snapshot, Transition
from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts, Span
from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import PersonalData, QueuedReclaimLog, SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore
from jupyter_gpu_reclaim.reconciler import Status
from jupyter_gpu_reclaim.server.app import GpuReclaim, owner_name
from jupyter_gpu_reclaim.server.usage import UsageRecorder

GIB = 1 << 30
GIB_IN_KIB = 1 << 20
GPU = Gpu(uuid="GPU-1", name="Some GPU", total_bytes=16 * GIB, used_bytes=6 * GIB)


def span(at: int, resident: int = 2, reclaimed: int = 4) -> Span:
    """Ten seconds of so many GiB."""
    amounts = GpuAmounts(
        ms=10_000,
        total=160 * GIB_IN_KIB,
        resident=10 * resident * GIB_IN_KIB,
        reclaimed=10 * reclaimed * GIB_IN_KIB,
        others=10 * GIB_IN_KIB,
    )
    return Span(at, {"GPU-1": amounts})


async def written(app: GpuReclaim, *spans: Span) -> None:
    """Have these in the database, as samples of this server."""
    await app.reclaim_log.usage(owner_name()).write(spans, {"GPU-1": GPU})


async def test_history_gives_means_of_what_was_held(extension: GpuReclaim, call: Call) -> None:  # noqa: F811
    """Each span's mean per GPU, in bytes; a span that nobody saw is left out, and the range is kept to."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    at = int(now.timestamp()) - 600
    await written(extension, span(at, resident=2), span(at + 10, resident=6), span(at + 60), span(at + 120))
    asked = {"since": (now - timedelta(seconds=600)).isoformat(), "step": "60"}
    _, reply = await call(
        "GET", "/history", params={**asked, "until": (now - timedelta(seconds=480)).isoformat()}
    )
    assert reply == {
        "step_seconds": 60,
        "gpus": {
            "GPU-1": {
                "at": [
                    (now - timedelta(seconds=ago)).isoformat().replace("+00:00", "Z") for ago in (600, 540)
                ],
                "resident_bytes": [4 * GIB, 2 * GIB],
                "reclaimed_bytes": [4 * GIB, 4 * GIB],
                "others_bytes": [GIB, GIB],
                "total_bytes": [16 * GIB, 16 * GIB],
            }
        },
    }
    _, recent = await call("GET", "/history")
    assert recent["step_seconds"] == 10
    assert len(recent["gpus"]["GPU-1"]["at"]) == 4
    _, long = await call("GET", "/history", params={"since": "2020-01-01T00:00:00Z", "step": "864000"})
    assert (long["step_seconds"], len(long["gpus"]["GPU-1"]["at"])) == (864000, 1)


@pytest.mark.parametrize(
    "params",
    [
        {"step": "15"},
        {"step": "0"},
        {"step": "soon"},
        {"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
        {"since": "2020-01-01T00:00:00Z", "step": "10"},
        {"since": "yesterday"},
    ],
)
async def test_bad_questions_to_history_are_400(extension: GpuReclaim, call: Call, params: dict) -> None:  # noqa: F811
    """A range or a step that cannot be is answered 400 with what was expected."""
    code, reply = await call("GET", "/history", params=params)
    assert (code, reply["reason"]) == (400, "bad_request")


async def test_totals_are_of_today_and_this_week(extension: GpuReclaim, call: Call) -> None:  # noqa: F811
    """GiB-hours and GPU-hours won back equal a sum by hand; what lies before Monday counts in neither."""
    first = (await call("GET", "/totals"))[1]["since"]  # of the looks that the server has had, if two already
    assert first is None or datetime.now(UTC) - datetime.fromisoformat(first) < timedelta(minutes=1)
    now = int(datetime.now(UTC).timestamp()) // 10 * 10
    long_ago = now - 8 * 86400
    await written(extension, span(now, reclaimed=4), span(now - 10, reclaimed=8), span(long_ago))
    _, reply = await call("GET", "/totals")
    won = {"reclaimed_gib_hours": pytest.approx((40 + 80) / 3600, abs=1e-6),
           "reclaimed_gpu_hours": pytest.approx((40 + 80) / 16 / 3600, abs=1e-6)}  # fmt: skip
    assert (reply["today"], reply["week"]) == (won, won)
    hour = datetime.fromtimestamp(long_ago // 3600 * 3600, UTC)
    assert reply["since"] == hour.isoformat().replace("+00:00", "Z")


def status(seconds: float, start: datetime) -> Status:
    """A look at one reclaimed kernel, so many seconds after `start`."""
    holding = Holding(
        kernel_id="k", label="n", owner="ada", phase=Phase.RECLAIMED, footprint={"GPU-1": 4 * GIB}
    )
    snapshot = Snapshot(
        taken_at=start + timedelta(seconds=seconds),
        gpus=(GPU,),
        holdings=(holding,),
        host_available_bytes=None,
    )
    return Status(policy=Policy(), snapshot=snapshot)


@pytest.fixture
def plain(tmp_path: Path, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[SqlReclaimLog]:
    """A log in a new file."""
    log = SqlReclaimLog(f"sqlite:///{tmp_path}/log.sqlite")
    yield log
    jp_asyncio_loop.run_until_complete(log.close())


async def test_samples_are_seen_at_once_and_written_at_the_end(plain: SqlReclaimLog) -> None:
    """History has what is not in the database yet; stopping writes all of it, and a look shown twice counts once."""
    store = UsageStore(plain, "ada@host/0")
    recorder = UsageRecorder(store, tick_seconds=5)
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    for seconds in (0, 5, 5, 12, 25):
        recorder.see(status(seconds, start), ())

    async def reclaimed(one: UsageRecorder) -> list[int]:
        reply = await one.history(start, start + timedelta(minutes=1), 10)
        return reply["gpus"]["GPU-1"]["reclaimed_bytes"]

    assert await reclaimed(recorder) == [4 * GIB] * 3
    await recorder.stop()
    assert await reclaimed(UsageRecorder(store, 5)) == [4 * GIB] * 3
    (share,) = await store.shares(int(start.timestamp()), int(start.timestamp()) + 3600)
    assert (share.amounts.ms, share.amounts.reclaimed) == (25_000, 100 * GIB_IN_KIB)


def transition(number: int, **fields: Any) -> Transition:
    """A row of a minute of its own."""
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    return Transition(
        id=f"row-{number}",
        kernel_id="k",
        phase=Phase.RECLAIMED,
        **{"at": at, "event": Event.RECLAIM_DONE, **fields},
    )


async def test_the_log_by_user_notebook_mechanism_and_outcome(extension: GpuReclaim, call: Call) -> None:  # noqa: F811
    """Each of these filters keeps its rows, also with others; an outcome that cannot be is 400."""
    me = owner_name()
    await extension.reclaim_log.append(
        [
            transition(0, owner=me, label="a.ipynb"),
            transition(1, owner=me, label="b.ipynb", event=Event.RECLAIM_REFUSED, mechanism="torch_offload"),
            transition(2, label="a.ipynb", event=Event.RESTORE_DONE),
            transition(3, label="b.ipynb", event=Event.RECLAIM_STARTED),
        ]
    )
    for params, expected in (
        ({"user": me}, [1, 0]),
        ({"notebook": "a.ipynb"}, [2, 0]),
        ({"mechanism": "torch_offload"}, [1]),
        ({"outcome": "done"}, [2, 0]),
        ({"outcome": "refused"}, [1]),
        ({"outcome": "done", "event": "restore_done"}, [2]),
        ({"outcome": "done", "user": me, "notebook": "a.ipynb"}, [0]),
    ):
        code, reply = await call("GET", "/log", params=params)
        assert code == 200
        assert [row["id"] for row in reply["transitions"]] == [f"row-{n}" for n in expected], params
    code, exported = await call("GET", "/log/export", params={"user": me, "format": "jsonl"})
    assert [json.loads(line)["id"] for line in exported.splitlines()] == ["row-1", "row-0"]
    for params in ({"outcome": "splendid"}, {"outcome": "done", "event": "pinned"}):
        assert (await call("GET", "/log", params=params))[0] == 400


def held(at: int, label: str, owner: str) -> Span:
    """Ten seconds in which a notebook held 2 GiB."""
    amounts = KernelAmounts(ms=10_000, resident=20 * GIB_IN_KIB)
    return Span(at, span(at).gpus, {(f"kernel of {label}", label, owner, "GPU-1"): amounts})


@pytest.mark.parametrize("personal", ["plain", "hashed", "omitted"])
async def test_nobody_elses_past_is_told(
    extension: GpuReclaim,  # noqa: F811
    call: Call,  # noqa: F811
    plain: SqlReclaimLog,
    personal: str,
    tmp_path: Path,
) -> None:
    """Where servers share a database, log, export and report are of this server's user, however names are kept."""
    me, at = owner_name(), datetime.now(UTC).replace(microsecond=0)
    kept = PersonalData.kept(personal, tmp_path / "key")
    mine = QueuedReclaimLog(plain, tmp_path / "queue", kept, answer_within=timedelta(minutes=1))
    await mine.open()
    seconds = int(at.timestamp()) // 10 * 10
    await UsageStore(plain, "ada@elsewhere/0").write([held(seconds, "theirs", "ada")], {"GPU-1": GPU})
    await mine.usage(me).write([held(seconds, "mine", me)], {"GPU-1": GPU})
    await plain.append([transition(1, owner="ada", label="theirs", event=Event.RESTORE_DONE, at=at)])
    await mine.append([transition(2, owner=me, label="mine", event=Event.RESTORE_DONE, at=at)])
    await mine.append([transition(3, event=Event.ROWS_DELETED)])
    was = extension.reclaim_log, extension.usage
    extension.reclaim_log, extension.usage = mine, UsageRecorder(mine.usage(me), 5)
    try:
        told = {
            str(params): [row["id"] for row in (await call("GET", "/log", params=params))[1]["transitions"]]
            for params in ({}, {"user": "ada"}, {"notebook": "theirs"}, {"event": "restore_done"})
        }
        _, exported = await call("GET", "/log/export", params={"format": "jsonl"})
        _, report = await call("GET", "/report")
    finally:
        extension.reclaim_log, extension.usage = was
        await mine.close()
    assert list(told.values()) == [["row-2", "row-3"], [], [], ["row-2"]]
    assert [json.loads(line)["id"] for line in exported.splitlines()] == ["row-2", "row-3"]
    (notebook,), (gpu,) = report["notebooks"], report["gpus"]
    assert notebook["name"] == (kept.word("mine") or "(not known)")
    assert gpu["held_gib_hours"] == pytest.approx(20 / 3600)
    assert report["course"][0]["resident_bytes"] == 2 * GIB
    assert any("÷ 1 restores" in figure["basis"] for figure in report["figures"])


async def test_the_log_is_exported_whole(extension: GpuReclaim, call: Call) -> None:  # noqa: F811
    """More rows than fit a page come all, once, newest first, as CSV and as JSON Lines that equal the log's rows."""
    rows = [
        transition(n, label=f'"{n}",\n', moved_bytes=n, footprint={"GPU-1": 1, "GPU-2": n})
        for n in range(2100)
    ]
    await extension.reclaim_log.append(rows)
    _, text = await call("GET", "/log/export")
    records = list(csv.DictReader(io.StringIO(text)))
    assert [record["id"] for record in records] == [row.id for row in rows[::-1]]
    last = {name: value for name, value in records[0].items() if value}
    assert last == {
        "id": "row-2099", "at": "2026-01-02T10:59:00.000000Z", "kernel_id": "k", "event": "reclaim_done",
        "phase": "reclaimed", "label": '"2099",\n', "gpus": "GPU-1 GPU-2", "footprint_bytes": "2100",
        "moved_bytes": "2099", "freed_bytes": "0", "unmovable_bytes": "0", "simulated": "False",
    }  # fmt: skip
    _, lines = await call("GET", "/log/export", params={"format": "jsonl"})
    assert [json.loads(line) for line in lines.splitlines()] == to_json(rows[::-1])
    assert (await call("GET", "/log/export", params={"format": "xlsx"}))[0] == 400


class FailsLater:
    """A log whose second page cannot be read."""

    async def query(self, after: str | None = None, **filters: Any) -> tuple[list[Transition], str | None]:
        """See `ports.ReclaimLog`."""
        if after is not None:
            raise LogUnavailable("The database went away.")
        return [transition(1)], "more"


async def test_an_export_cut_short_does_not_look_whole(extension: GpuReclaim, jp_fetch: Any) -> None:  # noqa: F811
    """When the log fails between two pages the connection breaks; nobody takes what came for all there is."""
    whole, extension.reclaim_log = extension.reclaim_log, FailsLater()
    try:
        with pytest.raises((HTTPClientError, StreamClosedError)) as broken:
            await jp_fetch("gpu-reclaim", "api", "log", "export")
        assert getattr(broken.value, "response", None) is None
    finally:
        extension.reclaim_log = whole


async def test_the_report_as_data_and_as_a_page(extension: GpuReclaim, call: Call) -> None:  # noqa: F811
    """The report has the samples there are, assumptions are the settings', and an unknown country is 400."""
    now = int(datetime.now(UTC).timestamp()) // 10 * 10
    await written(extension, span(now, reclaimed=8))
    extension.price_per_gpu_hour = 360.0
    _, reply = await call("GET", "/report")
    figures = {figure["name"]: figure["value"] for figure in reply["figures"]}
    assert figures["memory won back"] == pytest.approx(80 / 3600)
    assert figures["worth of the GPU-hours won back"] == pytest.approx(80 / 16 / 3600 * 360)
    _, page = await call("GET", "/report", params={"format": "html"})
    assert page.startswith("<!doctype html>")
    assert (await call("GET", "/report", params={"format": "pdf"}))[0] == 400
    extension.country = "XXX"
    code, problem = await call("GET", "/report")
    assert (code, "XXX" in problem["message"]) == (400, True)
