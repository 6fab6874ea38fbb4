"""JupyterLab on the simulated GPU, with the demo's notebooks and settings quick enough to play with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jupyter_gpu_reclaim.demo.play import HERE
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import environment

GPU = ("Simulated GPU 8 GiB", 8 << 30)
GUIDED = "guided.ipynb"
SETTINGS = {
    "GpuReclaim.idle_after_seconds": 60,
    "GpuReclaim.pressure_idle_after_seconds": 10,
    "GpuReclaim.min_reclaim_bytes": 1 << 20,
    "GpuReclaim.tick_seconds": 1,
    "GpuReclaim.sample_seconds": 1,
}
# What JupyterLab has open at first: its files and our sidebar, which it would else begin with folded.
OPEN_SIDES = {
    side: {"collapsed": False, "visible": True, "current": widget, "widgets": [widget]}
    for side, widget in (("left", "filebrowser"), ("right", "gpu-reclaim-sidebar"))
}


def prepare(
    show: Callable[[str], None], folder: Path, gpu: tuple[str, int] = GPU, context_bytes: int = 128 * MiB
) -> dict[str, str]:
    """Lays a simulated GPU (a name, and bytes of the machine's memory), the notebooks and a workspace in `folder`.

    What is there of yours is kept. Returns the environment in which JupyterLab sees all of it. `context_bytes` is what
    each process takes of the GPU before it has any tensor. Raises `CannotBuild`.
    """
    from jupyterlab_server.workspaces_handler import WorkspacesManager  # JupyterLab alone brings it

    ensure_built(show)
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in HERE.glob("*.ipynb"):
        if not (folder / notebook.name).exists():
            shutil.copy(notebook, folder)
    hidden = folder.resolve() / ".gpu-reclaim"
    if not (hidden / "workspaces").exists():
        hidden.mkdir(exist_ok=True)
        layout = {"data": {"layout-restorer:data": OPEN_SIDES}, "metadata": {"id": "default"}}
        WorkspacesManager(str(hidden / "workspaces")).save("default", json.dumps(layout))
    Board.create(hidden / "board", gpus=[gpu], context_bytes=context_bytes).close()
    return {"JUPYTERLAB_WORKSPACES_DIR": str(hidden / "workspaces"), **environment(hidden / "board")}


def run(show: Callable[[str], None], folder: Path, options: Sequence[str]) -> int:
    """Runs `jupyter lab` in the prepared `folder` until it ends; its exit code."""
    prepared = prepare(show, folder)
    show(
        f"JupyterLab on a simulated GPU: an idle notebook is reclaimed after a minute. {GUIDED} shows you round."
    )
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}",
               f"--LabApp.default_url=/lab/tree/{GUIDED}",
               *(f"--{name}={value}" for name, value in SETTINGS.items())]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--allow-root")
    try:
        return subprocess.call([*command, *options], env={**os.environ, **prepared})
    except KeyboardInterrupt:
        return 0
