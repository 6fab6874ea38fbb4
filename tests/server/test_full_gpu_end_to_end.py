"""A full GPU in a real server: a running cell gets room from an idle notebook, and cells take turns."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from running_server import RunningServer

from jupyter_gpu_reclaim.demo.jupyter_session import OpenNotebook
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import environment

COUNT = 32 * MiB  # of float32: 128 MiB, of which the GPU cannot hold two
FILL = f"import torch\nx = torch.arange({COUNT}, dtype=torch.float32, device='simgpu')\nprint('filled')"
CHECK = f"print(torch.equal(x.cpu(), torch.arange({COUNT}, dtype=torch.float32)))"


async def first_row(server: RunningServer, notebook: OpenNotebook, event: str) -> dict:
    """The newest row of that event in the notebook's log, once there is one."""
    while True:
        _, log = await server.call("GET", "/log")
        for row in log["transitions"]:
            if (row["kernel_id"], row["event"]) == (notebook.kernel_id, event):
                return row
        await asyncio.sleep(0.05)


def test_a_full_gpu_from_end_to_end(tmp_path: Path) -> None:
    """The second notebook's first cell waits until the first is reclaimed and has its tensor; with one place, a cell
    waits while the other notebook's runs; every value is right throughout."""
    settings = {"GpuReclaim.max_running_per_gpu": 1, "GpuReclaim.room_wait_seconds": 60}
    folder = tmp_path / "server"
    folder.mkdir()
    with Board.create(tmp_path / "board", [("GPU", 256 * MiB)], context_bytes=16 * MiB, poison=True) as board:

        async def story(server: RunningServer) -> None:
            a, b = await server.open("a.ipynb"), await server.open("b.ipynb")
            assert await a.run(FILL) == "filled\n"
            await server.until(lambda row: row["background_work"] == [], a.kernel_id)
            assert await b.run(FILL) == "filled\n"  # an OutOfMemoryError without us
            await first_row(server, a, "reclaim_done")
            assert await b.run(CHECK) == "True\n"
            assert await a.run(CHECK) == "True\n"  # and now b gives way
            await first_row(server, b, "reclaim_done")

            assert await a.run("x = x[: 2**20].clone()\ntorch.simgpu.empty_cache()") == ""
            assert await b.run(CHECK) == "True\n"  # both have room now
            busy = tmp_path / "busy"
            os.mkfifo(busy)
            running = asyncio.create_task(a.run(f"open({str(busy)!r}).read()"))
            with await asyncio.to_thread(busy.open, "w"):
                waiting = asyncio.create_task(b.run(CHECK))
                row = await server.until(lambda row: row["place_wanted_at"], b.kernel_id)
                assert (row["phase"], row["running_since"], row["waiting"]) == ("resident", None, 0)
                assert row["decision"]["reason"] == "no_place"
                assert not waiting.done()
            await running
            assert await waiting == "True\n"

        with RunningServer(folder, settings, environment(board.path)) as server:
            server.run(story(server))
