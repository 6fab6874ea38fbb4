"""Every command that README and docs show is run here, or listed with the reason why it is not."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from jupyter_gpu_reclaim import cli
from jupyter_gpu_reclaim.core.model import Event, Phase, Transition
from jupyter_gpu_reclaim.plan.generator import generate
from jupyter_gpu_reclaim.plan.trace import write_csv
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = r"(?:jupyter|make|python|\.venv/bin/python|pip|sudo)"

RUN = {
    "jupyter --data-dir": "{folder}",
    "jupyter kernelspec list": "python3",
    "jupyter gpu-reclaim log": "digits.ipynb",
    "jupyter gpu-reclaim log --since 7d --outcome failed": "restore_failed",
    "jupyter gpu-reclaim log --format csv > log.csv": "digits.ipynb",
    "jupyter gpu-reclaim log --format jsonl": '"reclaim_done"',
    "jupyter gpu-reclaim report": "memory won back",
    "jupyter gpu-reclaim report --since 30d --format html > report.html": "<!doctype html>",
    "jupyter gpu-reclaim report --since 2026-03-01 --until 2026-04-01 --format json --price-per-gpu-hour 2.5 "
    "--currency EUR --country FRA --pue 1.5": "EUR",
    "jupyter gpu-reclaim plan team.csv --gpu-memory 48GiB": "GPUs needed",
    "jupyter gpu-reclaim plan team.csv --gpus 8": "GPUs needed",
    "jupyter gpu-reclaim preload": "LD_PRELOAD",
    "jupyter gpu-reclaim doctor": "database",
}
"""Command → what it shows, among other things; in a folder of its own with a log and a small team.csv."""

SMALLER = {
    "jupyter gpu-reclaim plan": "jupyter gpu-reclaim plan team.csv",
    "jupyter gpu-reclaim plan --set idle_after=5m --set warn_before=0s": "{} team.csv",
    "jupyter gpu-reclaim plan --sweep idle_after=1m,5m,20m --html plan.html --json plan.json": "{} team.csv",
}
"""A made-up team of a hundred takes a minute or more: the same words over the small one are run in its place."""

_WEB = "installs from the web; `make wheel-test` installs the wheel, and the extras named are looked up here"
_TESTS = "what it does is what is going on right now, or is tried by tests of its own"
_TLJH = "needs The Littlest JupyterHub, which takes a machine for itself"
_BENCH = "takes minutes; tests/bench tries each group in small"
NOT_RUN = {
    "pip install .": "builds the front end; `make wheel-test` builds and installs the same wheel",
    "pip install jupyter_gpu_reclaim": _WEB,
    'pip install "psycopg[binary]"': _WEB,
    'pip install "jupyter_gpu_reclaim[hub,postgres]"': _WEB,
    'pip install "jupyter_gpu_reclaim[carbon]"': _WEB,
    "sudo -E /opt/tljh/user/bin/pip install jupyter_gpu_reclaim": _TLJH,
    'sudo /opt/tljh/hub/bin/python3 -m pip install "jupyter_gpu_reclaim[hub]"': _TLJH,
    "sudo tljh-config reload hub": _TLJH,
    "sudo tljh-config set services.cull.timeout 86400": _TLJH,
    "pip install": "names a step that each line above is",
    "make demo": "tests/test_whole_way.py plays the demo",
    "make lab": "runs until it is closed; test_guided_notebook.py runs its notebook, `make binder-test` all",
    "jupyter gpu-reclaim lab": "runs until it is closed; test_guided_notebook.py lays down what it does",
    "make compat": "runs other projects' suites, for many minutes",
    "make wheel-test": "builds and installs the wheel; tests/ui/test_wheel.py shows a wheel's sidebar",
    "make hub-demo": "runs until it is ended; tests/hub drives the same hub",
    "make hub-test": "makes an environment of its own, and runs tests/hub in it for minutes",
    ".venv/bin/python tests/ui/figures.py": "measures for minutes; tests/ui drives the same pages",
    "make .venv/test": _TESTS,
    "make test": _TESTS,
    "make lint": _TESTS,
    "make bench": _BENCH,
    "make binder-test": "builds an environment of 1.4 GB; tests/test_guided_notebook.py runs its notebook",
    "make docs": "builds these pages with packages of its own; what it would find missing here is held by test_docs.py",
    "make docs-links": "asks the web",
    "make screenshots": "takes two minutes; tests/ui drives the same pages",
    "python docs/reasons.py": "writes into the repository; tests/test_docs.py does the same and compares",
    ".venv/bin/python -m pytest -m gpu": "needs a GPU",
    "jupyter gpu-reclaim doctor --exercise": "needs a GPU; tests/gpu/test_exercise.py runs it on the simulated one",
    "jupyter gpu-reclaim bench [--only GROUP,…] [--json FILE] [--markdown FILE]": _BENCH,
    "jupyter gpu-reclaim bench --only engine --markdown FILE": _BENCH,
    "jupyter gpu-reclaim bench --only engine --device cuda": "needs a GPU",
    "jupyter gpu-reclaim bench --only plan": _BENCH,
    "jupyter gpu-reclaim bench --only hub": _BENCH,
    "python -m jupyter_gpu_reclaim.bench.hub SECONDS": _BENCH,
    "python -m jupyter_gpu_reclaim.bench.plan": _BENCH,
    "python -m jupyter_gpu_reclaim.hub": "tests/hub starts it under a real hub",
    "jupyter gpu-reclaim log --follow": "goes on for ever; tests/log/test_listing.py follows",
    "jupyter gpu-reclaim plan --seeds 5 --sweep max_running_per_gpu=1,2,3,0": "made the page's table in many minutes",
    "jupyter gpu-reclaim plan --seeds 3 --sensitivity": "made the page's table in many minutes",
}
"""Command → why it is not run here."""


def commands(text: str) -> set[str]:
    """What a page shows to be typed: the lines of its `sh` blocks, and commands within sentences."""
    found = set()
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found |= {" ".join(re.sub(r"\s#.*$", "", line).split()) for line in lines} - {""}
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)}
    return found | {span for span in spans if re.match(rf"{PROGRAMS} \S", span)}


def test_every_command_is_run_or_has_a_reason() -> None:
    """No command in the docs is left out of the lists above, and no list names what the docs do not show any more."""
    shown = set().union(*(commands(page.read_text()) for page in PAGES))
    assert shown == {*RUN, *SMALLER, *NOT_RUN}


def test_every_extra_that_is_named_exists() -> None:
    """`jupyter_gpu_reclaim[x]` in the docs names an extra that pyproject.toml has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"jupyter_gpu_reclaim\[([\w,]+)\]", " ".join(page.read_text() for page in PAGES))
    assert named
    assert {extra for words in named for extra in words.split(",")} <= set(extras)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jupyter's data directory with a log of two rows, and a team of four, to work in."""
    folder = tmp_path_factory.mktemp("docs")
    write_csv(generate(4, 1, 80 << 30, seed=1), folder / "team.csv")
    events = ((Event.RECLAIM_DONE, Phase.RECLAIMED), (Event.RESTORE_FAILED, Phase.RECLAIMED))
    rows = [
        Transition(
            id=str(UUID(int=number)), at=datetime.now(UTC), kernel_id="k", label="digits.ipynb", event=event,
            phase=phase, footprint={"GPU-0": 1 << 30},
        )
        for number, (event, phase) in enumerate(events)
    ]  # fmt: skip

    async def write() -> None:
        log = SqlReclaimLog(f"sqlite:///{folder / 'gpu_reclaim.sqlite'}")
        await log.append(rows)
        await log.close()

    asyncio.run(write())
    return folder


@pytest.mark.parametrize("command", [*RUN, *SMALLER])
def test_a_command_does_what_it_is_shown_for(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends well, and shows what it is there for; where the docs send its output to a file, in that file."""
    monkeypatch.chdir(folder)
    for name in ("DATA", "CONFIG", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(folder))
    words, _, target = SMALLER.get(command, command).format(command).partition(" > ")
    words = shlex.split(words)
    if words[:2] == ["jupyter", "gpu-reclaim"]:
        code = cli.main(words[2:])
    else:
        code = subprocess.run([Path(sys.executable).with_name(words[0]), *words[1:]], check=False).returncode
    shown = capfd.readouterr().out
    # Whether this machine has a GPU is the doctor's affair.
    assert code in ({0, 1} if words[2:] == ["doctor"] else {0})
    if target:
        (folder / target).write_text(shown)
    assert RUN.get(command, "GPUs needed").format(folder=folder) in shown
    if "--json" in words:
        assert json.loads((folder / "plan.json").read_text())["answers"]
