"""How the simulated GPU gets into a process: not at all unless asked, and never at the price of `import torch`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from jupyter_gpu_reclaim.sim import build
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.environment import BOARD_VARIABLE, bootstrap_code, environment

REPORT = """
import sys, torch
print(hasattr(torch, "simgpu"), torch.accelerator.current_accelerator(), "libsimgpu" in open("/proc/self/maps").read())
"""


def run(code: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a fresh interpreter with these variables besides the usual ones, no board among them."""
    usual = {k: v for k, v in os.environ.items() if k not in (BOARD_VARIABLE, "LD_LIBRARY_PATH")}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**usual, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_nothing_happens_unasked() -> None:
    """Without the variable `import torch` loads nothing of ours but the entry point, and says nothing."""
    code = REPORT + "print(sorted(m for m in sys.modules if m.startswith('jupyter_gpu_reclaim')))"
    outcome = run(code)
    assert outcome.stdout.splitlines() == [
        "False None False",
        "['jupyter_gpu_reclaim', 'jupyter_gpu_reclaim.sim', 'jupyter_gpu_reclaim.sim.torch_backend']",
    ]
    assert outcome.stderr == ""


def test_the_environment_brings_torch_and_nvml(simgpu_server: None, tmp_path: Path) -> None:
    """With the variables of `environment`, torch and pynvml in a fresh interpreter see the same GPU."""
    code = """
import pynvml, torch
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
x = torch.ones(1, device="simgpu")
print(pynvml.nvmlDeviceGetName(gpu) == torch.simgpu.get_device_name(0))
print(pynvml.nvmlDeviceGetUUID(gpu) == "GPU-" + str(torch.simgpu.get_device_properties(0).uuid))
print(len(pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)), torch.accelerator.current_accelerator())
"""
    with Board.create(tmp_path / "board") as board:
        outcome = run(code, **environment(board.path))
    assert outcome.stdout.split() == ["True", "True", "1", "simgpu"], outcome.stderr


def test_without_a_compiler_torch_still_imports(tmp_path: Path) -> None:
    """Where nothing is built and no g++ is found, `import torch` works, and one line says what to install."""
    with Board.create(tmp_path / "board") as board:
        env = {
            BOARD_VARIABLE: str(board.path),
            "PATH": "",
            "CXX": "",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        outcome = run(REPORT, **env)
    assert outcome.stdout.split() == ["False", "None", "False"]
    assert len(outcome.stderr.splitlines()) == 1
    assert "install g++" in outcome.stderr


def test_a_missing_board_is_said(tmp_path: Path) -> None:
    """A variable that names no board leaves torch as it is, and one line names the path."""
    outcome = run(REPORT, **{BOARD_VARIABLE: str(tmp_path / "gone")})
    assert outcome.stdout.split() == ["False", "None", "False"]
    assert len(outcome.stderr.splitlines()) == 1
    assert str(tmp_path / "gone") in outcome.stderr


def test_other_environments_load_by_path(simgpu_server: None, tmp_path: Path) -> None:
    """Where this package is not installed, `bootstrap_code` registers the device from the folder alone."""
    code = "import sys, torch\n" + bootstrap_code()
    code += "print(torch.ones(2, device='simgpu').sum().item(), 'jupyter_gpu_reclaim' in sys.modules)"
    with Board.create(tmp_path / "board") as board:
        outcome = run(
            code,
            "-S",  # no .pth file is read, so an editable install is not seen
            **{BOARD_VARIABLE: str(board.path), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
            PYTHONPATH=sysconfig.get_path("purelib"),
        )
    assert outcome.stdout.split() == ["2.0", "False"], outcome.stderr


def test_two_builders_at_once(tmp_path: Path) -> None:
    """Two processes that build at the same time end with one whole library, compiled once."""
    code = "from jupyter_gpu_reclaim.sim import build; print(build.nvml_library())"
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    builders = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=-1, stderr=-1, text=True)
        for _ in range(3)
    ]
    outputs = [builder.communicate(timeout=240) for builder in builders]
    assert len({stdout for stdout, _ in outputs}) == 1
    library = Path(outputs[0][0].strip())
    assert library.name == "libnvidia-ml.so.1"
    assert tmp_path in library.parents
    assert sum("building libnvidia-ml.so.1" in stderr for _, stderr in outputs) == 1
    assert [path.name for path in library.parent.iterdir()] == [library.name]
    assert [path for path in library.parents[1].iterdir() if "building" in path.name] == []


def test_a_failed_build_leaves_nothing_but_a_log(tmp_path: Path) -> None:
    """A compiler that fails is reported in one line with the path of its messages; the next try starts afresh."""
    code = """
from jupyter_gpu_reclaim.sim import build
try:
    build.nvml_library(lambda line: None)
except build.CannotBuild as error:
    print(error)
"""
    outcome = run(code, XDG_CACHE_HOME=str(tmp_path / "failing"), CXX="false")
    assert len(outcome.stdout.splitlines()) == 1
    log = Path(outcome.stdout.split()[-1])
    assert log.read_text().startswith("/")
    assert run(code, XDG_CACHE_HOME=str(tmp_path / "failing")).stdout == ""
    assert build.cache_folder().name == "sim"


def test_an_unwritable_cache_is_said(tmp_path: Path) -> None:
    """A cache folder that cannot be made is reported with the variable to set."""
    (tmp_path / "file").write_text("in the way")
    code = "from jupyter_gpu_reclaim.sim import build; build.nvml_library()"
    outcome = run(code, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "CannotBuild" in outcome.stderr
    assert "set XDG_CACHE_HOME" in outcome.stderr
