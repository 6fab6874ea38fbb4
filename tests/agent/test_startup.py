"""startup.py in real kernels: breaks none, leaves no trace in the user's namespace, and runs the user's own file."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_kernel import AGENT_FOLDER, RealKernel
from server_end import ServerEnd

from jupyter_gpu_reclaim.agent import protocol

NAMES = "sorted(name for name in globals() if not name.startswith(('_i', '_o', '_dh', '_json')))"

Breakage = Callable[[Path], object]
BREAKAGES: dict[str, Breakage] = {
    "the agent raises": lambda folder: (folder / "agent.py").write_text("raise RuntimeError('broken')"),
    "the agent exits": lambda folder: (folder / "agent.py").write_text("raise SystemExit(3)"),
    "the agent has a syntax error": lambda folder: (folder / "gate.py").write_text("def ("),
    "the agent is missing": lambda folder: (folder / "__init__.py").unlink(),
    "startup.py is missing": lambda folder: (folder / "startup.py").unlink(),
    "startup.py has a syntax error": lambda folder: (folder / "startup.py").write_text("def ("),
}


@pytest.fixture
def start(python: str, tmp_path: Path) -> Iterator[Callable[..., RealKernel]]:
    """Starts kernels, with changes to their environment, and ends them."""
    kernels = []

    def start_one(**environment: str) -> RealKernel:
        kernel = RealKernel(python, tmp_path, tmp_path / "s", **environment)
        kernels.append(kernel)
        return kernel.start()

    yield start_one
    for kernel in kernels:
        kernel.stop()


def invitation(users_own: Path | None) -> str:
    """What the server puts into a kernel's environment; nobody listens at that socket."""
    return json.dumps(
        {"socket": "/nowhere", "kernel_id": "k", "secret": "s", "pythonstartup": users_own and str(users_own)}
    )


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_agent_breaks_no_kernel(
    start: Callable[..., RealKernel], tmp_path: Path, breakage: str
) -> None:
    """Whatever is wrong with the agent, the kernel starts, runs cells and shows nothing of it in them."""
    folder = tmp_path / "agent"
    shutil.copytree(AGENT_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    BREAKAGES[breakage](folder)
    kernel = start(PYTHONSTARTUP=str(folder / "startup.py"))
    cell = kernel.run("6 * 7")
    assert (cell.status, [shown["msg_type"] for shown in cell.shown]) == ("ok", ["execute_result"])
    assert cell.text == "42"
    if "startup.py" not in breakage:
        assert "this kernel starts without its agent" in kernel.log.read_text()


def test_no_trace_is_left(start: Callable[..., RealKernel]) -> None:
    """A kernel with the agent has the names, the sys.path and the environment of one without; its children too."""
    traces = []
    for with_agent in (False, True):
        kernel = start(PYTHONSTARTUP=str(AGENT_FOLDER / "startup.py") if with_agent else "")
        assert kernel.value("'_jupyter_gpu_reclaim_agent' in __import__('sys').modules") is with_agent
        traces.append((kernel.value(NAMES), kernel.value("__doc__"), kernel.value("__import__('sys').path")))
        if with_agent:
            seen_by_children = kernel.run("!env").text
            assert "IPYTHONDIR" in seen_by_children
            assert protocol.ENVIRONMENT_VARIABLE not in seen_by_children
            assert "PYTHONSTARTUP" not in seen_by_children
        kernel.stop()
    assert traces[0] == traces[1]


def test_the_users_own_startup_runs(start: Callable[..., RealKernel], tmp_path: Path) -> None:
    """The user's PYTHONSTARTUP runs in the user's namespace, cannot import our files, and is all that children see."""
    users_own = tmp_path / "mine.py"
    users_own.write_text(
        "import os\nmine = os.environ['PYTHONSTARTUP']\n"
        "try:\n    import kernel_hooks\nexcept ImportError:\n    ours_is_hidden = True\n"
    )
    kernel = start(**{protocol.ENVIRONMENT_VARIABLE: invitation(users_own)})
    assert kernel.value("[mine, ours_is_hidden]") == [str(users_own), True]
    assert kernel.value("os.environ['PYTHONSTARTUP']") == str(users_own)
    assert kernel.value(f"{protocol.ENVIRONMENT_VARIABLE!r} in os.environ") is False
    assert not [name for name in kernel.value(NAMES) if "reclaim" in name]


def test_an_error_in_the_users_own_startup_is_theirs(
    start: Callable[..., RealKernel], tmp_path: Path
) -> None:
    """A failing startup file of the user's leaves them a kernel, with the agent in it."""
    users_own = tmp_path / "mine.py"
    users_own.write_text("before = 1\n1 / 0\n")
    kernel = start(**{protocol.ENVIRONMENT_VARIABLE: invitation(users_own)})
    assert kernel.value("before") == 1
    assert kernel.value("__import__('sys').modules['_jupyter_gpu_reclaim_agent'].running is not None") is True


def test_a_kernel_restarted_says_hello_again(start: Callable[..., RealKernel], tmp_path: Path) -> None:
    """After a restart the new process has an agent of its own."""
    server = ServerEnd(tmp_path / "s")
    server.listen()
    kernel = start()
    first = server.wait_for_op("hello")
    seen = len(server.heard)
    kernel.manager.restart_kernel(now=True)
    second = server.wait_for_op("hello", seen)
    assert first["pid"] != second["pid"] == kernel.pid
    server.vanish()


@pytest.mark.parametrize(
    "command", [["-i", "-q"], ["-m", "IPython", "--simple-prompt", "--no-banner"]], ids=["python", "ipython"]
)
def test_nothing_happens_without_a_kernel(command: list[str], tmp_path: Path) -> None:
    """A plain Python or IPython given a kernel's environment runs the user's own startup and loads no agent."""
    users_own = tmp_path / "mine.py"
    users_own.write_text("mine = 'mine'\n")
    environment = {
        **os.environ,
        "IPYTHONDIR": str(tmp_path),
        "PYTHONSTARTUP": str(AGENT_FOLDER / "startup.py"),
        protocol.ENVIRONMENT_VARIABLE: invitation(users_own),
    }
    script = (
        "import os, sys\n"
        "print([mine, '_jupyter_gpu_reclaim_agent' in sys.modules, os.environ['PYTHONSTARTUP'][-7:]])\n"
        "print([name for name in dir() if 'reclaim' in name])\n"
    )
    done = subprocess.run(
        [sys.executable, *command], input=script, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "['mine', False, 'mine.py']" in done.stdout
    assert "[]" in done.stdout


@pytest.mark.parametrize("path", sorted(AGENT_FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_the_syntax_is_python_3_9(path: Path) -> None:
    """Kernels may run a Python older than the server's: every file of the agent's parses as Python 3.9."""
    ast.parse(path.read_text(), feature_version=(3, 9))
