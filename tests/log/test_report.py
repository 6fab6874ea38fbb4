"""`jupyter gpu-reclaim report`: from samples in a database to what a person reads."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
from contract.log_contract import row

from jupyter_gpu_reclaim import cli
from jupyter_gpu_reclaim.core.model import Event, Gpu, Holding, Phase, Snapshot
from jupyter_gpu_reclaim.core.usage import Meter
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore
from jupyter_gpu_reclaim.report.carbon import NoIntensity, intensity

GIB = 1 << 30
NOTEBOOK = "<b>course</b>/train.ipynb"
Report = Callable[..., str]


def samples(start: datetime) -> Meter:
    """An hour of a kernel of 8 of 16 GiB: at work for 20 minutes, idle for 10, reclaimed for the rest."""
    meter = Meter(longest=timedelta(minutes=2))
    for minute in range(61):
        at_work, away = minute < 20, minute >= 30
        holding = Holding(
            kernel_id="k", label=NOTEBOOK, owner="ada", footprint={"G": 8 * GIB}, background_work=(),
            phase=Phase.RECLAIMED if away else Phase.RESIDENT, last_active_at=start,
            running_since=start if at_work else None, mechanism="torch_offload",
        )  # fmt: skip
        gpu = Gpu(
            uuid="G", name="H100", total_bytes=16 * GIB, used_bytes=0 if away else 8 * GIB, simulated=True
        )
        meter.see(
            Snapshot(
                taken_at=start + timedelta(minutes=minute),
                gpus=(gpu,),
                holdings=(holding,),
                host_available_bytes=None,
            )
        )
    return meter


@pytest.fixture
def report(
    log: SqlReclaimLog,
    file: Path,
    jp_asyncio_loop: asyncio.AbstractEventLoop,
    capsys: pytest.CaptureFixture[str],
) -> Report:
    """The report of the samples' hour, by the command line, with the options given."""
    start = (datetime.now(UTC) - timedelta(hours=3)).replace(minute=0, second=0, microsecond=0)
    meter = samples(start)
    jp_asyncio_loop.run_until_complete(UsageStore(log, "ada@host/0").write(meter.rest(), meter.gpus))
    done = row(1, at=start + timedelta(minutes=1), event=Event.RESTORE_DONE)
    jp_asyncio_loop.run_until_complete(log.append([done]))

    def make(*options: str) -> str:
        since = ("--since", start.isoformat(), "--until", (start + timedelta(minutes=59)).isoformat())
        assert cli.main(["report", "--db-url", f"sqlite:///{file}", *since, *options]) == 0
        return capsys.readouterr().out

    return make


def test_figures_from_the_database(report: Report) -> None:
    """Samples that went through the database give the figures that the hour has by hand; what is assumed is beside."""
    found = json.loads(
        report("--format", "json", "--price-per-gpu-hour", "3", "--currency", "CHF", "--country", "fra")
    )
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert figures["memory won back"]["value"] == pytest.approx(4.0)
    assert figures["GPU-hours won back"]["value"] == pytest.approx(0.25)
    assert figures["memory in use, with reclaim"]["value"] == pytest.approx(25.0)
    assert figures["memory in use, without it"]["value"] == pytest.approx(50.0)
    assert figures["held by idle notebooks, with reclaim"]["value"] == pytest.approx(100 / 3)
    assert figures["worth of the GPU-hours won back"]["value"] == pytest.approx(0.75)
    assert figures["worth of the GPU-hours won back"]["basis"].startswith("at 3 CHF a GPU-hour")
    assert figures["energy saved by GPUs"]["value"] == 0
    assert "56.039 g/kWh (France 2023, codecarbon's table)" in figures["carbon saved"]["basis"]
    assert found["users"] == [
        {"name": "ada", "held_gib_hours": pytest.approx(4), "used_gib_hours": pytest.approx(8 / 3),
         "reclaimed_gib_hours": pytest.approx(4), "waited_hours": 0}
    ]  # fmt: skip
    assert (len(found["course"]), found["step_seconds"], found["simulated"]) == (60, 60, True)


def test_a_table_for_people(report: Report) -> None:
    """Each figure is there with its unit and, beneath it, what it rests on; simulated GPUs are said to be."""
    text = report()
    assert re.search(
        r"GPU-hours won back +0\.25 GPU-hours\n    the same as a share of each GPU's memory", text
    )
    assert re.search(r"^ada +4\.00 +2\.67 +4\.00 +0\.00$", text, re.M)
    assert "no figure here is one of a real GPU" in text
    assert re.search(r"worth of the GPU-hours won back +– EUR\n    no price of a GPU-hour is set", text)


class Reader(HTMLParser):
    """Notes tags, and whatever leads elsewhere."""

    VOID: ClassVar[set[str]] = {"meta", "path", "link", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elsewhere: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        self.tags.add(tag)
        self.elsewhere += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """See `HTMLParser`."""
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_a_page_that_needs_nothing_else(report: Report) -> None:
    """The HTML is well-formed, names nothing outside itself, runs no script, and a notebook's name stays text."""
    page = report("--format", "html")
    reader = Reader()
    reader.feed(page)
    assert (reader.open, reader.elsewhere) == ([], [])
    assert not {"script", "b", "link", "img", "iframe"} & reader.tags
    assert "&lt;b&gt;course" in page
    assert page.count("z") > 60  # the chart has a bar a minute
    assert not re.search(r"url\(|@import|https?://", page)


def test_no_country_is_guessed(report: Report, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A country that is not in the table is an error with what to do, and not the world's average."""
    assert cli.main(["report", "--db-url", f"sqlite:///{file}", "--country", "XXX"]) == 1
    assert "No carbon intensity is known for 'XXX'" in capsys.readouterr().err
    with pytest.raises(NoIntensity):
        intensity("france")
    assert intensity("SWE")[1] == "Sweden 2023, codecarbon's table"
    assert cli.main(["report", "--db-url", f"sqlite:///{file}", "--since", "soon"]) == 1
    assert cli.main(["report", "--db-url", f"sqlite:///{file}", "--since", "1h", "--until", "2h"]) == 1
