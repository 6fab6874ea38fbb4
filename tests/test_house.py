"""The architecture as a checked fact: who may import whom, who alone touches which library, how large a room is."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jupyter_gpu_reclaim"
ROOT = PACKAGE.parent
NAME = PACKAGE.name

# A room may import itself and what stands here; what is not named here is nobody's business.
MAY_IMPORT = {
    "core": set(),
    "ports": {"core"},
    "config": {"core", "ports", "log_config"},
    "log_config": set(),
    "gpu": {"core", "ports", "config"},
    "reclaim_log": {"core", "ports", "config"},
    "node": {"core", "ports", "config"},
    "sim": {"core", "ports", "config"},
    "reconciler": {"core", "ports", "config"},
    "server": {
        "core",
        "ports",
        "config",
        "reconciler",
        "gpu",
        "reclaim_log",
        "report",
        "node",
        "hub_link",
        "agent",
    },
    "hub": {"core", "ports", "config", "reconciler", "reclaim_log", "report", "plan"},
    "hub_link": {"core", "ports", "reclaim_log", "reconciler"},
    "plan": {"core", "ports", "config", "reconciler", "reclaim_log"},
    "report": {"core", "ports", "log_config", "reclaim_log"},
    "demo": {"core", "gpu", "sim"},
    "bench": {
        "core",
        "ports",
        "config",
        "reconciler",
        "gpu",
        "reclaim_log",
        "sim",
        "demo",
        "agent",
        "server",
        "plan",
        "hub_link",
    },
    "doctor": {"core", "config", "gpu", "reclaim_log", "node", "server", "sim", "agent"},
    "cli": {
        "core",
        "config",
        "ports",
        "gpu",
        "reclaim_log",
        "report",
        "plan",
        "demo",
        "bench",
        "doctor",
        "sim",
    },
    "agent": set(),
}
ONLY_HERE = {
    "sqlalchemy": ("reclaim_log", "hub/store.py", "hub/tables.py", "hub/migrations"),
    "alembic": ("reclaim_log", "hub/migrations"),
    "jupyterhub": ("hub",),
    "prometheus_client": ("server/metrics.py",),
    "pynvml": ("gpu/nvml.py",),
    "cuda": ("gpu/process_checkpoint.py",),
    "torch": (
        "agent/torch_offload",
        "sim/torch_backend.py",
        "sim/amp.py",
        "sim/notebook_names.py",
        "bench",
        "doctor/round_trip.py",
    ),
}
IMPURE = {
    "time",
    "random",
    "os",
    "io",
    "asyncio",
    "threading",
    "socket",
    "subprocess",
    "pathlib",
    "secrets",
    "logging",
}
IMPURE_CALLS = re.compile(r"\b(datetime\.now|datetime\.utcnow|date\.today|uuid\.uuid[14]|open\()")

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The room a file belongs to: its top folder in the package, or its own name at the top level."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module a file imports, relative ones made absolute, with the level of the relative import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module or "", 0
                continue
            base = [NAME, *path.relative_to(PACKAGE).parts[:-1]]
            base = base[: len(base) - node.level + 1]
            yield ".".join([*base, *([node.module] if node.module else [])]), node.level


def test_rooms_import_only_downwards() -> None:
    """Every import between rooms follows the direction in the house's table; siblings do not know each other."""
    wrong = []
    for path in FILES:
        here = room(path)
        for module, _ in imported(path):
            parts = module.split(".")
            if parts[0] != NAME or len(parts) == 1 or here == "__init__" or parts[1] == here:
                continue
            if parts[1] not in MAY_IMPORT.get(here, set()):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_libraries_stay_in_their_room() -> None:
    """SQLAlchemy, pynvml, cuda and torch are imported only where the house says, so each has one place."""
    wrong = []
    for path in FILES:
        place = path.relative_to(PACKAGE).as_posix()
        for module, _ in imported(path):
            allowed = ONLY_HERE.get(module.split(".")[0])
            if allowed and not place.startswith(allowed):
                wrong.append(f"{place} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_core_is_pure(path: Path) -> None:
    """The core imports only the standard library and names no clock, file, randomness or event loop."""
    for module, _ in imported(path):
        top = module.split(".")[0]
        assert top == NAME or top in sys.stdlib_module_names, module
        assert top not in IMPURE, module
    code = "\n".join(line.split("#")[0] for line in path.read_text().splitlines())
    assert not IMPURE_CALLS.search(code)


def test_the_agent_stands_alone() -> None:
    """The agent uses the standard library and relative imports only: it lives where this package is not installed."""
    for path in sorted((PACKAGE / "agent").rglob("*.py")):
        for module, level in imported(path):
            top = module.split(".")[0]
            if level:
                assert module.startswith(f"{NAME}.agent"), f"{path.name}: {module} lies outside agent/"
            else:
                known = top in sys.stdlib_module_names or top in {
                    "torch",
                    "IPython",
                    "comm",
                    "debugpy",
                    "ipykernel",
                }
                assert known, f"{path.name} imports {module}"


def test_the_agent_speaks_python_3_9() -> None:
    """The agent's source parses as Python 3.9, the oldest interpreter a kernel may have."""
    for path in sorted((PACKAGE / "agent").rglob("*.py")):
        ast.parse(path.read_text(), filename=str(path), feature_version=(3, 9))


def test_files_stay_small() -> None:
    """A file over 300 lines says why in its first lines, with a comment that names the figure."""
    too_long = []
    for path in FILES:
        lines = path.read_text().splitlines()
        if len(lines) > 300 and not any("300 lines" in line for line in lines[:40]):
            too_long.append(f"{path.relative_to(ROOT)}: {len(lines)}")
    assert too_long == []


def test_no_drawers() -> None:
    """No file is called manager, utils or helpers: such names say nothing about what is inside."""
    assert [p for p in FILES if re.search(r"manager|utils|helpers", p.name)] == []


def test_the_readme_map_is_true() -> None:
    """Every path in README's map of the code exists, and every room of the package is on the map."""
    readme = (ROOT / "README.md").read_text()
    map_block = re.search(r"```text\n(jupyter_gpu_reclaim/.*?)```", readme, re.DOTALL)
    assert map_block, "README has no map"
    named = set()
    for line in map_block.group(1).splitlines()[1:]:
        path = line.split()[0] if line.strip() else None
        if path:
            assert (PACKAGE / path).exists(), f"README's map names {path}"
            named.add(path.split("/")[0].removesuffix(".py"))
    rooms = {room(path) for path in FILES} - {"__init__"}
    assert rooms <= named, f"not on README's map: {sorted(rooms - named)}"


def test_every_test_says_what_it_promises() -> None:
    """Each test has a docstring of its own: one sentence on what it promises."""
    silent = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name.startswith("test_")
                and not ast.get_docstring(node)
            ):
                silent.append(f"{path.relative_to(ROOT)}::{node.name}")
    assert silent == []
