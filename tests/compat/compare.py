"""jupyter_server's, ipykernel's and nbclient's own tests, without us and with us: `compare.py PYTHON FOLDER PAGE`.

PYTHON is an environment with those packages and what their tests need, but without us; we are installed into it half
way. FOLDER receives the sdists. The table in PAGE is written anew. Exits 1 where a test tells the two apart which would
not fail with any extension: one that comes out otherwise is run again in both ways, and is put down to chance only if
it comes out both ways in one of them.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SUITES = {"jupyter_server": "server", "ipykernel": "kernels", "nbclient": "kernels"}
COROUTINES = {
    "server": ("-p", "no:asyncio"),  # they are run by pytest-jupyter
    "kernels": (
        "-o",
        "asyncio_default_fixture_loop_scope=function",
    ),  # unset, it is a warning and so an error
}
ANY_EXTENSION = {
    "tests/extension/test_app.py::test_stop_extension": "demands that no extension be loaded but the two it names"
}
"""Tests that any third extension fails, with what they demand."""
AGAIN = 3
LIMIT_SECONDS = 1500


@dataclass
class Suite:
    """One project's tests, unpacked in `folder`, and what became of each: by run, then by test."""

    name: str
    version: str
    folder: Path
    runs: dict[str, list[dict[str, str]]] = field(default_factory=lambda: {"without": [], "with": []})
    kernels: int = 0
    servers: int = 0

    def run(self, python: Path, how: str, tests: list[str] | None = None) -> None:
        """Run all or some of its tests once more."""
        report = self.folder.parent / f"{self.name}-{how}-{len(self.runs[how])}.json"
        environment = {**os.environ, "COMPAT_REPORT": str(report), "PYTHONPATH": str(HERE)}
        environment["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        if how == "with":
            environment["COMPAT_WITH_US"] = SUITES[self.name]
        options = ["-p", "with_us", *COROUTINES[SUITES[self.name]], "-q", "--tb=short"]
        command = [str(python), "-P", "-m", "pytest", *options]
        print(f"{self.name} {self.version} {how} us", flush=True)
        with report.with_suffix(".log").open("w") as log:
            subprocess.run(
                [*command, *(tests or ["tests"])], cwd=self.folder, env=environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, timeout=LIMIT_SECONDS,
            )  # fmt: skip
        told: dict[str, Any] = json.loads(report.read_text())
        self.runs[how].append(told["outcomes"])
        if how == "with" and tests is None:
            self.kernels, self.servers = told["kernels"], told["servers"]

    def apart(self) -> list[str]:
        """Tests that came out otherwise in the first runs."""
        without, with_us = self.runs["without"][0], self.runs["with"][0]
        return sorted(
            test for test in without.keys() | with_us.keys() if without.get(test) != with_us.get(test)
        )

    def seen(self, test: str, how: str) -> set[str | None]:
        """All that became of a test without us, or with us."""
        first, *again = self.runs[how]
        return {first.get(test), *(outcomes[test] for outcomes in again if test in outcomes)}

    def by_us(self) -> list[str]:
        """Tests that came out in one way each time without us, and in another each time with us."""
        return [
            test
            for test in self.apart()
            if len(self.seen(test, "without")) == 1 and len(self.seen(test, "with")) == 1
        ]

    def row(self) -> str:
        """Its line in the table."""
        counts = [
            ", ".join(
                f"{count} {kind}" for kind, count in sorted(Counter(self.runs[how][0].values()).items())
            )
            for how in ("without", "with")
        ]
        chance = len(self.apart()) - len(self.by_us())
        cells = [
            f"{self.name} {self.version}",
            *counts,
            self.kernels,
            self.servers or "–",
            chance,
            len(self.by_us()),
        ]
        return f"| {' | '.join(map(str, cells))} |"


def unpack(python: Path, name: str, folder: Path) -> Suite:
    """The tests of the version installed in that environment, from its sdist, without the package beside them."""
    show = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    version = subprocess.check_output([str(python), "-c", show, name], text=True).strip()
    pip = [str(python), "-m", "pip"]
    wanted = ["--no-deps", "--no-binary", name, "--dest", str(folder), f"{name}=={version}"]
    subprocess.run([*pip, "download", "--quiet", *wanted], check=True)
    archive = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(archive) as sdist:
        sdist.extractall(folder, filter="data")
    unpacked = folder / f"{name}-{version}"
    shutil.rmtree(unpacked / name, ignore_errors=True)
    if not (unpacked / "tests").is_dir():
        raise SystemExit(f"{archive.name} brings no tests")
    needs = tomllib.loads((unpacked / "pyproject.toml").read_text()).get("dependency-groups", {})
    if "test" in needs:
        subprocess.run(
            [*pip, "install", "--quiet", "--group", f"{unpacked / 'pyproject.toml'}:test"], check=True
        )
    return Suite(name, version, unpacked)


def write(page: Path, suites: list[Suite]) -> None:
    """Put the table into the page, between its two marks."""
    table = [
        f"{datetime.now(UTC):%Y-%m-%d}, CPython {platform.python_version()}, {platform.system()} {platform.machine()}.",
        "",
        "| suite | without us | with us | kernels with the agent | servers with the extension "
        "| told apart by chance | told apart by us |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(suite.row() for suite in suites),
    ]
    for test in (test for suite in suites for test in suite.by_us()):
        table += [
            "",
            f"`{test}` {ANY_EXTENSION.get(test, 'is told apart by us, and nobody has explained why yet')}.",
        ]
    marks = re.compile(r"(<!-- compat: begin.*?-->\n)(.*?)(<!-- compat: end -->)", re.DOTALL)
    text = marks.sub(lambda found: f"{found[1]}\n" + "\n".join(table) + f"\n\n{found[3]}", page.read_text())
    page.write_text(text)


def main(python: Path, folder: Path, page: Path) -> int:
    """Run everything; the number of tests that tell the two apart, but for those that any extension fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    suites = [unpack(python, name, folder) for name in SUITES]
    for suite in suites:
        suite.run(python, "without")
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--editable", str(ROOT)],
        check=True, env={**os.environ, "SKIP_JUPYTER_BUILDER": "1"},
    )  # fmt: skip
    for suite in suites:
        suite.run(python, "with")
    for suite in suites:
        for how in ("without", "with"):
            for _ in range(AGAIN if suite.apart() else 0):
                suite.run(python, how, suite.apart())
    write(page, suites)
    for suite in suites:
        print(suite.row())
        for test in suite.apart():
            print(f"  {test}: without {suite.seen(test, 'without')}, with {suite.seen(test, 'with')}")
        if not suite.kernels:
            raise SystemExit(f"no kernel of {suite.name}'s tests had an agent: this shows nothing")
    return sum(test not in ANY_EXTENSION for suite in suites for test in suite.by_us())


if __name__ == "__main__":
    interpreter = Path(sys.argv[1]).absolute()
    sys.exit(1 if main(interpreter, Path(sys.argv[2]).resolve(), Path(sys.argv[3])) else 0)
