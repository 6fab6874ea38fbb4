"""The guided notebook, cell by cell on a real server with a real kernel: it is true, and it can be reclaimed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

from jupyter_gpu_reclaim.demo import lab
from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer
from jupyter_gpu_reclaim.demo.play import cells
from jupyter_gpu_reclaim.sim.board import MiB

GPU = ("GPU 512 MiB", 512 * MiB)
TOKENS = Path(__file__).parents[1] / "labextension" / "src" / "tokens.ts"

SETTINGS = {
    "GpuReclaim.idle_after_seconds": 2,
    "GpuReclaim.cooldown_seconds": 0,
    "GpuReclaim.min_reclaim_bytes": MiB,
    "GpuReclaim.host_reserve_bytes": 0,
    "GpuReclaim.tick_seconds": 0.2,
    "GpuReclaim.sample_seconds": 0.2,
}


async def printed_by_tag(folder: Path) -> dict[str, str]:
    """What the tagged cells print, run as the notebook asks: the one after the break once the GPU is gone."""
    prepared = lab.prepare(print, folder, GPU, context_bytes=64 * MiB)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    printed: dict[str, str] = {}
    async with JupyterServer(folder, SETTINGS, {**prepared, "PATH": path}) as server:
        notebook = await server.open_notebook(lab.GUIDED)
        for tags, source in cells(lab.GUIDED):
            if "after-idle" in tags:
                await notebook.wait_for_phase("reclaimed", 120)
            output = await notebook.run(source)
            printed |= dict.fromkeys(tags, output)
    return printed


def test_the_guided_notebook_trains_is_reclaimed_and_comes_back(tmp_path: Path) -> None:
    """Left idle it is reclaimed, its next cell finds every bit and trains on, and log and report tell of it."""
    printed = asyncio.run(printed_by_tag(tmp_path))
    before = re.search(r"fingerprint (\w{16})", printed["then-idle"])
    assert before
    assert f"fingerprint {before[1]} - every bit is as it was left" in printed["after-idle"]
    read_right = re.findall(r"([\d.]+)% of the digits", printed["then-idle"] + printed["after-idle"])
    assert float(read_right[-1]) > 95  # it has learned from real data
    told = re.findall(r" (re\w+_(?:started|done)) .*guided", printed["log"])
    assert told[:4] == ["reclaim_started", "reclaim_done", "restore_started", "restore_done"]
    assert "memory won back" in printed["report"]  # whose samples come once a minute


def test_what_is_in_the_folder_is_kept(tmp_path: Path) -> None:
    """A second `lab` in a folder changes neither notebook nor layout; the first one had the sidebar open in it."""
    prepared = lab.prepare(print, tmp_path, GPU)
    (layout,) = Path(prepared["JUPYTERLAB_WORKSPACES_DIR"]).iterdir()
    sidebar = re.search(r"SIDEBAR = '([\w-]+)'", TOKENS.read_text())
    assert sidebar
    opened = json.loads(layout.read_text())["data"]["layout-restorer:data"]["right"]
    assert opened == {"collapsed": False, "visible": True, "current": sidebar[1], "widgets": [sidebar[1]]}
    layout.write_text("the user's layout")
    (tmp_path / lab.GUIDED).write_text("the user's work")
    assert lab.prepare(print, tmp_path, GPU) == prepared
    assert (tmp_path / lab.GUIDED).read_text() == "the user's work"
    assert layout.read_text() == "the user's layout"
