"""What 30 idle kernels cost with us and without us, in the same minutes on the same machine.

Two servers run side by side, one with the extension; every kernel holds a tensor on a simulated GPU and then does
nothing. CPU time is the scheduler's own account (`/proc/<pid>/task/*/schedstat`, nanoseconds) of the server and its
kernels; our part is the difference in each window. Settings are the defaults: ticks of 5 s.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import environment

KERNELS, WINDOWS, WINDOW_SECONDS = 30, 5, 40
SETTLE_SECONDS = 165  # by then agents in which nothing changes are at their longest rest (5 + 10 + … + 80 s)
GPU = ("Simulated GPU 80 GiB", 80 << 30)
CELL = "import os, torch; x = torch.ones(1 << 20, device='simgpu'); print(os.getpid())"


def cpu_seconds(pids: list[int]) -> float:
    """CPU time used so far by all threads of these processes, in seconds."""
    total = 0
    for pid in pids:
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(stat.read_text().split()[0])
    return total / 1e9


async def start_kernels(server: JupyterServer) -> list[int]:
    """Starts the kernels four at a time, runs the cell in each, closes the websockets; server's and kernels' pids."""
    gate = asyncio.Semaphore(4)

    async def one(number: int) -> int:
        async with gate:
            notebook: OpenNotebook = await server.open_notebook(f"idle-{number}.ipynb")
            pid = int(await notebook.run(CELL))
            notebook.close()
            return pid

    return [server.pid, *await asyncio.gather(*(one(number) for number in range(KERNELS)))]


async def measure() -> tuple[list[float], list[float], list[float]]:
    """Per window: our share of one core; our longest hold of the event loop; the longest of the rest (seconds)."""
    with tempfile.TemporaryDirectory(prefix="gpu-reclaim-bench-") as temporary:
        folder = Path(temporary)
        folder.joinpath("with").mkdir()
        Board.create(folder / "board", gpus=[GPU]).close()
        on_board = environment(folder / "board")
        probe = {
            "ServerApp.jpserver_extensions": repr(
                {"jupyter_gpu_reclaim": True, "jupyter_gpu_reclaim.bench.loop_probe": True}
            )
        }
        async with (
            JupyterServer(folder / "with", probe, on_board) as with_us,
            JupyterServer(folder / "without", environment=on_board, enabled=False) as without_us,
        ):
            ours, theirs = await start_kernels(with_us), await start_kernels(without_us)
            await asyncio.sleep(SETTLE_SECONDS)
            await with_us.request("GET", "/gpu-reclaim-bench")
            shares, holds, other_holds = [], [], []
            for _ in range(WINDOWS):
                began, a, b = time.monotonic(), cpu_seconds(ours), cpu_seconds(theirs)
                await asyncio.sleep(WINDOW_SECONDS)
                a, b, took = cpu_seconds(ours) - a, cpu_seconds(theirs) - b, time.monotonic() - began
                shares.append((a - b) / took)
                longest = await with_us.request("GET", "/gpu-reclaim-bench")
                holds.append(longest["ours"])
                other_holds.append(longest["others"])
            return shares, holds, other_holds


def figures() -> Iterator[Figure]:
    """Our share of a core, and the longest our callbacks held the server's event loop."""
    ensure_built(lambda line: None)
    shares, holds, other_holds = asyncio.run(measure())
    what = f"with {KERNELS} idle kernels"
    yield Figure.of("idle", f"our share of one core {what}", "%", [100 * s for s in shares], target=0.2)
    yield Figure.of(
        "idle", f"our longest hold of the event loop {what}", "ms", [1e3 * s for s in holds], target=5
    )
    yield Figure.of(
        "idle", "longest hold by anything else in that server", "ms", [1e3 * s for s in other_holds]
    )
