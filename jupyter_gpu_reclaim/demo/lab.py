"""JupyterLab on the simulated GPU, with the demo's notebooks and settings quick enough to play with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jupyter_gpu_reclaim.demo.play import HERE
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import environment

GPU = ("Simulated GPU 8 GiB", 8 << 30)
SETTINGS = {
    "GpuReclaim.idle_after_seconds": 60,
    "GpuReclaim.pressure_idle_after_seconds": 10,
    "GpuReclaim.min_reclaim_bytes": 1 << 20,
    "GpuReclaim.tick_seconds": 1,
    "GpuReclaim.sample_seconds": 1,
}


def run(show: Callable[[str], None], folder: Path, options: Sequence[str]) -> int:
    """Lays the notebooks in `folder` (yours are kept) and runs `jupyter lab` there until it ends; its exit code."""
    ensure_built(show)
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in HERE.glob("*.ipynb"):
        if not (folder / notebook.name).exists():
            shutil.copy(notebook, folder)
    board_path = folder.resolve() / ".simulated-gpu"
    Board.create(board_path, gpus=[GPU]).close()
    show("JupyterLab on a simulated GPU: an idle notebook is reclaimed after a minute. Open digits.ipynb.")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}",
               *(f"--{name}={value}" for name, value in SETTINGS.items())]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--allow-root")
    try:
        return subprocess.call([*command, *options], env={**os.environ, **environment(board_path)})
    except KeyboardInterrupt:
        return 0
