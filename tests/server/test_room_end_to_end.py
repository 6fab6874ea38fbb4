"""Running cells that find no room, and running places, through a real server; only the GPU is simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from running_server import RunningServer

from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import environment

FILL = "import time, torch\nx = torch.arange({} * 2**20 // 4, dtype=torch.int32).to('simgpu')"
CHECK = "print(torch.equal(x.cpu(), torch.arange({} * 2**20 // 4, dtype=torch.int32)))"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One running place on one GPU of 256 MiB."""
    folder = tmp_path_factory.mktemp("room")
    Board.create(folder / "board", [("GPU", 256 * MiB)], context_bytes=16 * MiB, poison=True).close()
    settings = {"GpuReclaim.max_running_per_gpu": 1}
    with RunningServer(folder, settings, environment(folder / "board")) as server:
        yield server


def test_a_running_cell_gets_room_from_an_idle_notebook_without_noticing(server: RunningServer) -> None:
    """The allocation waits while the idle one is reclaimed; both have their data in the end, and nothing ran twice."""

    async def story() -> None:
        a, b = await server.open("a.ipynb"), await server.open("b.ipynb")
        await a.run(FILL.format(150))
        await server.until(lambda row: row["background_work"] == [] and row["gpu_busy"] is False, a.kernel_id)
        await b.run("runs = 0")
        await b.run("runs += 1\n" + FILL.format(150))
        assert await b.run(CHECK.format(150) + "; print(runs)") == "True\n1\n"
        await server.until(lambda row: row["phase"] == "reclaimed", a.kernel_id)
        assert await a.run(CHECK.format(150)) == "True\n"
        for notebook in (a, b):
            await server.shut_down(notebook)

    server.run(story())


def test_with_one_running_place_cells_run_one_after_the_other(server: RunningServer) -> None:
    """The second cell waits for its turn, which the status shows with who runs, and both end right."""

    async def story() -> None:
        a, b = await server.open("a.ipynb"), await server.open("b.ipynb")
        for notebook in (a, b):
            await notebook.run(FILL.format(30))
        first = asyncio.create_task(a.run("time.sleep(3); print(time.time())"))
        await server.until(lambda row: row["running_since"], a.kernel_id)
        second = asyncio.create_task(b.run("print(time.time())"))
        row = await server.until(lambda row: row["wait"], b.kernel_id)
        assert row["wait"]["reason"] == "no_place"
        assert [holder["label"] for holder in row["wait"]["holders"]] == ["a.ipynb"]
        assert float(await second) >= float(await first)
        for notebook in (a, b):
            await server.shut_down(notebook)

    server.run(story())
