"""The demo's story: two notebooks that do not fit on one GPU, and a run of the first that nobody ever interrupted.

Everything is real but the GPU: jupyter_server, ipykernel, torch, NVML's client library. Nothing of the user's Jupyter
folders is read or written. `play()` returns every figure; it raises when a part of the promise did not hold.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook
from jupyter_gpu_reclaim.gpu.nvml import Nvml
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import environment, preload_nvml

HERE = Path(__file__).parent
GPU_NAME, GPU_BYTES, CONTEXT_BYTES = "Simulated GPU 1 GiB", 1 << 30, 96 << 20
# A story in seconds instead of a day: the only settings that differ from the defaults.
SETTINGS = {
    "GpuReclaim.idle_after_seconds": 4,
    "GpuReclaim.pressure_idle_after_seconds": 1,
    "GpuReclaim.cooldown_seconds": 0,
    "GpuReclaim.tick_seconds": 0.5,
    "GpuReclaim.sample_seconds": 0.5,
    "GpuReclaim.min_reclaim_bytes": 1 << 20,
    "GpuReclaim.host_reserve_bytes": 256 << 20,
}
IN_STORY_SECONDS = 60


class PromiseBroken(AssertionError):
    """The demo found something that is not as promised; the message says what."""


@dataclass
class Story:
    """Collects what is shown and measured."""

    show: Callable[[str], None]
    nvml: Nvml
    began: float = field(default_factory=time.monotonic)
    timeline: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, what: str, pids: dict[str, int]) -> dict[str, Any]:
        """Reads the GPU by NVML, prints the step with it, and keeps both."""
        reading = self.nvml.read()
        if reading.gpus is None:
            raise PromiseBroken(f"NVML cannot be read: {reading.problem}")
        gpu = reading.gpus[0]
        processes = reading.processes.get(gpu.uuid, {})
        by_name = {name: processes.get(pid, 0) for name, pid in pids.items()}
        step = {
            "at_seconds": round(time.monotonic() - self.began, 3),
            "what": what,
            "gpu_used_bytes": gpu.used_bytes,
            "used_bytes_by_notebook": by_name,
        }
        self.timeline.append(step)
        by_notebook = "".join(f"   {name} {mebibytes(used)}" for name, used in by_name.items())
        self.show(f"{step['at_seconds']:6.1f} s  {what}")
        self.show(f"          GPU {mebibytes(gpu.used_bytes)} of {mebibytes(gpu.total_bytes)}{by_notebook}")
        return step


def mebibytes(count: int | None) -> str:
    """A byte count for people."""
    return "?" if count is None else f"{count / 2**20:.0f} MiB"


def cells(notebook: str) -> list[tuple[set[str], str]]:
    """The code cells of a shipped notebook, each with its tags."""
    content = json.loads((HERE / notebook).read_text())
    return [
        (set(cell["metadata"].get("tags", ())), "".join(cell["source"]))
        for cell in content["cells"]
        if cell["cell_type"] == "code"
    ]


async def run_until(notebook: OpenNotebook, tag: str, *, start: int = 0) -> tuple[int, str]:
    """Runs cells from `start` up to and with the one tagged `tag`; the next cell's index and the last output."""
    for index, (tags, source) in enumerate(cells(notebook.path)[start:], start):
        printed = await notebook.run(source)
        if tag in tags:
            return index + 1, printed
    raise PromiseBroken(f"{notebook.path} has no cell tagged {tag}")


def prepare(folder: Path) -> dict[str, str]:
    """A fresh board and the notebooks in `folder`; the environment in which processes see that board."""
    folder.mkdir(parents=True, exist_ok=True)
    Board.create(folder / "board", gpus=[(GPU_NAME, GPU_BYTES)], context_bytes=CONTEXT_BYTES).close()
    for path in HERE.glob("*.ipynb"):
        shutil.copy(path, folder)
    return environment(folder / "board")


async def uninterrupted_digest(folder: Path) -> dict[str, str]:
    """The digest cell's answer of a run on a server without us, on a GPU of its own."""
    async with JupyterServer(folder, environment=prepare(folder), enabled=False) as server:
        notebook = await server.open_notebook("digits.ipynb")
        _, printed = await run_until(notebook, "digest")
        return json.loads(printed)


async def open_with_pid(server: JupyterServer, path: str) -> tuple[OpenNotebook, int]:
    """A notebook and its kernel's process id, to find it in NVML's list."""
    notebook = await server.open_notebook(path)
    return notebook, int(await notebook.run("import os; print(os.getpid())"))


async def play(show: Callable[[str], None], folder: Path) -> dict[str, Any]:
    """Plays the whole story; returns its figures. Raises `PromiseBroken`, `ServerFailed` or `CellFailed`."""
    ensure_built(show)
    show("\nFirst the run to compare with: digits.ipynb from top to bottom, never interrupted, without us.")
    expected = await uninterrupted_digest(folder / "uninterrupted")
    on_shared_gpu = prepare(folder / "shared")
    preload_nvml(folder / "shared" / "board")
    nvml = Nvml()
    try:
        story = Story(show, nvml)
        show("\nNow the same notebook beside a neighbour, on one simulated GPU that cannot hold both.\n")
        async with JupyterServer(folder / "shared", SETTINGS, on_shared_gpu) as server:
            return await share_one_gpu(server, story, expected)
    finally:
        nvml.close()


async def share_one_gpu(server: JupyterServer, story: Story, expected: dict[str, str]) -> dict[str, Any]:
    """The acts in order: A trains, is reclaimed, B fills the room, A's next cell takes it back; then the comparison."""
    pids: dict[str, int] = {}
    before = story.tell("the GPU before anybody came", pids)
    a, pids["A"] = await open_with_pid(server, "digits.ipynb")
    position, printed = await run_until(a, "then-idle")
    trained = story.tell(f"A trained: {printed.strip()}", pids)
    await a.wait_for_phase("reclaimed", IN_STORY_SECONDS)
    reclaimed = story.tell("A was idle, and has been reclaimed", pids)
    b, pids["B"] = await open_with_pid(server, "neighbour.ipynb")
    _, printed = await run_until(b, "fill")
    filled = story.tell(f"B fills the room: {printed.strip()}", pids)
    _, b_before = await run_until(b, "checksum", start=1)
    story.show("          A's next cell is sent: it waits at the gate until B has been idle for a second")
    position, printed = await run_until(a, "after-idle", start=position)
    restored = story.tell(f"B was reclaimed, A restored and trained on: {printed.strip()}", pids)
    _, printed = await run_until(a, "digest", start=position)
    digest = json.loads(printed)
    _, b_after = await run_until(b, "checksum", start=1)
    story.tell("B's next cell ran too: A made room in turn", pids)
    rows = (await server.request("GET", "/gpu-reclaim/api/log?limit=1000"))["transitions"]

    figures = {
        "simulated": True,
        "bit_exact": digest == expected and b_before == b_after,
        "differs": sorted(name for name in expected if digest.get(name) != expected[name]),
        "gpu": {"name": GPU_NAME, "total_bytes": GPU_BYTES, "context_bytes": CONTEXT_BYTES},
        "gpu_used_bytes": {
            "before": before["gpu_used_bytes"],
            "trained": trained["gpu_used_bytes"],
            "reclaimed": reclaimed["gpu_used_bytes"],
            "filled_by_neighbour": filled["gpu_used_bytes"],
            "restored": restored["gpu_used_bytes"],
        },
        "offload_seconds": seconds_of(rows, "reclaim_done"),
        "onload_seconds": seconds_of(rows, "restore_done"),
        "moved_bytes": [row["moved_bytes"] for row in reversed(rows) if row["event"] == "reclaim_done"],
        "timeline": story.timeline,
        "transitions": rows,
    }
    check(figures)
    return figures


def seconds_of(rows: list[dict[str, Any]], event: str) -> list[float]:
    """How long each move took, oldest first, as the log has it."""
    return [row["took_seconds"] for row in reversed(rows) if row["event"] == event]


def check(figures: dict[str, Any]) -> None:
    """Raises `PromiseBroken` unless every promise of the story held."""
    used = figures["gpu_used_bytes"]
    if used["reclaimed"] > used["before"] + CONTEXT_BYTES:
        raise PromiseBroken(
            f"after the reclaim {mebibytes(used['reclaimed'])} were in use; at most the context's "
            f"{mebibytes(CONTEXT_BYTES)} above {mebibytes(used['before'])} were promised"
        )
    if used["filled_by_neighbour"] + used["trained"] - used["reclaimed"] <= GPU_BYTES:
        raise PromiseBroken("the neighbour did not fill the room: A could have come back without any reclaim")
    if not figures["bit_exact"]:
        raise PromiseBroken(f"not equal bit for bit: {', '.join(figures['differs']) or 'the neighbour'}")


def run(show: Callable[[str], None], json_path: Path | None, kept: Path | None) -> dict[str, Any]:
    """`play()` from a synchronous caller, with the figures written to `json_path` when one is given.

    What servers and kernels leave, their log among it, stays in the new folder `kept`, or nowhere.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-reclaim-demo-") as temporary:
        if kept is not None:
            kept.mkdir(parents=True)
        figures = asyncio.run(play(show, kept or Path(temporary)))
    figures["took_seconds"] = round(time.monotonic() - began, 1)
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    return figures
