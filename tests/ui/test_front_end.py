"""The front end without a browser: its own tests, its architecture as a checked fact, and what it weighs."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "labextension" / "src"
BUILT = ROOT / "jupyter_gpu_reclaim" / "labextension"
FILES = sorted([*SOURCES.rglob("*.ts"), *SOURCES.rglob("*.tsx")])
MOST_BYTES = 150_000
# Who may import what below `src`; what is not named here puts the parts together and may import all.
MAY_IMPORT = {
    "types": set(),
    "api": {"types"},
    "rhythm": {"types"},
    "model": {"api", "rhythm", "types"},
    "select": {"select", "model", "api", "types"},
    "components": {"components", "select", "types"},
}


def room(path: Path) -> str:
    """`select` for `select/rows.ts`, `api` for `api.ts`."""
    return path.relative_to(SOURCES).parts[0].split(".")[0]


def test_the_front_ends_own_tests_pass(tmp_path: Path) -> None:
    """All vitest tests of model, api, selectors and components pass, and there are not suddenly few of them."""
    if shutil.which("npx") is None:
        pytest.skip("no node on the PATH: vitest cannot run")
    report = tmp_path / "vitest.json"
    ended = subprocess.run(
        ["npx", "--no-install", "vitest", "run", "--reporter=json", f"--outputFile={report}"],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert report.exists(), ended.stdout + ended.stderr
    outcome = json.loads(report.read_text())
    tests = [test for file in outcome["testResults"] for test in file["assertionResults"]]
    failed = [(test["fullName"], test["failureMessages"]) for test in tests if test["status"] != "passed"]
    broken = [file["message"] for file in outcome["testResults"] if file["status"] != "passed" and not failed]
    assert (failed, broken, ended.returncode) == ([], [], 0)
    assert len(tests) > 80


def test_imports_go_one_way() -> None:
    """Types, api, model, selectors and components import only downwards, as the house has it."""
    wrong = []
    for path in FILES:
        for target in re.findall(r"from '(\.[^']+)'", path.read_text()):
            there = room((path.parent / target).resolve())
            if there not in MAY_IMPORT.get(room(path), {there}):
                wrong.append(f"{path.relative_to(SOURCES)} imports {target}")
    assert wrong == []


def test_selectors_are_pure() -> None:
    """A selector asks no clock, no server and no page: what it needs to know is given to it."""
    impure = re.compile(r"new Date\(\)|Date\.now|fetch\(|document\.|window\.|Math\.random")
    assert [path.name for path in (SOURCES / "select").glob("*.ts") if impure.search(path.read_text())] == []


def test_the_house_rules_hold() -> None:
    """Files of at most 300 lines, no `any`, no console, no state in a module, and only the api knows an address."""
    comments_and_strings = re.compile(r"//.*?$|/\*.*?\*/|'[^']*'", re.DOTALL | re.MULTILINE)
    wrong = []
    for path in FILES:
        text = path.read_text()
        code = comments_and_strings.sub("", text)
        rules = {
            "300 lines": len(text.splitlines()) <= 300,
            "any": not re.search(r"\bany\b", code),
            "console": "console." not in code,
            "module state": not re.search(r"^(export )?(let|var) ", code, re.MULTILINE),
            "addresses": path.name == "api.ts" or "gpu-reclaim/api" not in text,
        }
        wrong += [f"{path.relative_to(SOURCES)}: {rule}" for rule, holds in rules.items() if not holds]
    assert wrong == []


def test_the_bundle_is_light() -> None:
    """All that a page may load of us, the chart included, is at most 150 kB when gzipped."""
    scripts = sorted((BUILT / "static").glob("*.js"))
    assert scripts, f"not built: {BUILT}"
    assert sum(len(gzip.compress(script.read_bytes())) for script in scripts) <= MOST_BYTES
