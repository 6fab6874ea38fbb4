"""Reclaim and restore in a real Jupyter server with real kernels and torch; only the GPU is simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import RunningServer

from jupyter_gpu_reclaim.demo.jupyter_session import CellFailed, OpenNotebook
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.environment import environment

MIB = 1 << 20
GPU_BYTES, CONTEXT_BYTES, HELD_BYTES = 256 * MIB, 16 * MIB, 64 * MIB
FILL = "import torch\nx = torch.arange(16 * 2**20, dtype=torch.float32).to('simgpu')"
CHECK = "print(torch.equal(x.cpu(), torch.arange(16 * 2**20, dtype=torch.float32)))"
RECLAIM, RESTORE, PIN = (
    "/kernels/{kernel_id}/reclaim",
    "/kernels/{kernel_id}/restore",
    "/kernels/{kernel_id}/pin",
)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """One GPU of 256 MiB; freed memory is poisoned."""
    path = tmp_path_factory.mktemp("board") / "board"
    with Board.create(path, [("GPU", GPU_BYTES)], context_bytes=CONTEXT_BYTES, poison=True) as board:
        yield board


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, board: Board) -> Iterator[RunningServer]:
    """One server for all notebooks here, on that board."""
    folder = tmp_path_factory.mktemp("end-to-end")
    with RunningServer(folder, environment=environment(board.path)) as server:
        yield server


@pytest.fixture(scope="module")
def shared(server: RunningServer) -> Iterator[OpenNotebook]:
    """One notebook for all tests that leave its kernel alive."""
    notebook = server.run(server.open("shared.ipynb"))
    yield notebook
    server.run(server.shut_down(notebook))


async def filled(server: RunningServer, notebook: OpenNotebook) -> OpenNotebook:
    """The notebook with 64 MiB of known values on the GPU, idle, and known to be."""
    await notebook.run(FILL)

    def settled(row: dict[str, Any]) -> bool:
        at_rest = row["running_since"] is None and row["background_work"] == [] and row["gpu_busy"] is False
        return at_rest and row["phase"] == "resident" and row["footprint_bytes"] >= HELD_BYTES

    await server.until(settled, notebook.kernel_id)
    return notebook


async def reclaim(server: RunningServer, notebook: OpenNotebook) -> dict[str, Any]:
    """Asks for the reclaim; the kernel's row when it is reclaimed.

    The driver shows a cell's work for a sample or two after its end, and may do so only now: then it is asked again.
    """
    code, reply = await server.call("POST", RECLAIM, {}, notebook.kernel_id)
    while reply.get("reason") == "gpu_busy":
        await server.until(lambda row: row["gpu_busy"] is False, notebook.kernel_id)
        code, reply = await server.call("POST", RECLAIM, {}, notebook.kernel_id)
    assert code == 202, reply
    return await server.until(lambda row: row["phase"] == "reclaimed", notebook.kernel_id)


def test_a_notebook_is_reclaimed_and_its_next_cell_brings_it_back(
    server: RunningServer, board: Board, shared: OpenNotebook
) -> None:
    """POST reclaim leaves only the context on the GPU; the next cell finds its values; the log tells the episode."""

    async def story() -> None:
        a = await filled(server, shared)
        row = await server.until(lambda row: True, a.kernel_id)
        pid = row["pid"]
        assert row["footprint_source"] == "nvml"
        assert board.used_bytes(pid) >= HELD_BYTES + CONTEXT_BYTES
        row = await reclaim(server, a)
        assert board.used_bytes(pid) == CONTEXT_BYTES
        assert row["footprint_bytes"] >= HELD_BYTES
        assert row["host_bytes"] >= HELD_BYTES
        assert row["unmovable"] == {}
        assert sum(gpu["allocated_bytes"] for gpu in row["gpus"].values()) == 0
        assert (await server.call("POST", RECLAIM, {}, a.kernel_id))[0] == 409
        assert await a.run(CHECK) == "True\n"
        row = await server.until(lambda row: row["phase"] == "resident", a.kernel_id)
        assert board.used_bytes(pid) >= HELD_BYTES + CONTEXT_BYTES
        _, log = await server.call("GET", "/log")
        rows = [row for row in log["transitions"] if row["kernel_id"] == a.kernel_id]
        assert [row["event"] for row in reversed(rows)] == [
            "reclaim_started", "reclaim_done", "restore_started", "restore_done",
        ]  # fmt: skip
        assert len({row["episode_id"] for row in rows}) == 1
        assert all(row["simulated"] for row in rows)

    server.run(story())


def test_our_traffic_is_no_activity_of_the_kernel(server: RunningServer, shared: OpenNotebook) -> None:
    """Looking, reclaiming and restoring leave Jupyter's idle clock alone, so that cullers go on as before."""

    async def story() -> None:
        a = await filled(server, shared)

        async def clock() -> str:
            return (await server.jupyter.request("GET", f"/api/kernels/{a.kernel_id}"))["last_activity"]

        before = await clock()
        await reclaim(server, a)
        code, _ = await server.call("POST", RESTORE, {}, a.kernel_id)
        assert code == 202
        await server.until(lambda row: row["phase"] == "resident", a.kernel_id)
        assert await clock() == before

    server.run(story())


def test_an_interrupt_ends_the_wait_for_room(
    server: RunningServer, board: Board, shared: OpenNotebook
) -> None:
    """A cell that waits for room is ended by an interrupt with one clear error; nothing is lost, the next one works."""

    async def story() -> None:
        a = await filled(server, shared)
        await reclaim(server, a)
        board.set_other_used(GPU_BYTES - 2 * CONTEXT_BYTES)
        waiting = asyncio.create_task(a.run("y = float(x.sum())"))
        row = await server.until(lambda row: row["waiting"] and row["decision"]["act"] == "wait", a.kernel_id)
        assert row["decision"]["reason"] == "no_room"
        assert sum(row["decision"]["missing"].values()) > 0
        assert "Waiting for room" in row["explanation"]
        await server.jupyter.request("POST", f"/api/kernels/{a.kernel_id}/interrupt")
        with pytest.raises(CellFailed, match="GPURestore"):
            await waiting
        row = await server.until(lambda row: not row["waiting"], a.kernel_id)
        assert row["phase"] == "reclaimed"
        board.set_other_used(0)
        assert await a.run(CHECK) == "True\n"
        assert await a.run("print('y' in globals())") == "False\n"

    try:
        server.run(story())
    finally:
        board.set_other_used(0)


def test_a_reclaimed_kernel_can_be_restarted_and_shut_down(server: RunningServer, board: Board) -> None:
    """Restart and shutdown of a reclaimed kernel end it at once; nothing of it stays on the GPU or in the status."""

    async def story() -> None:
        a = await filled(server, await server.open("ends.ipynb"))
        old = await reclaim(server, a)
        await server.jupyter.request("POST", f"/api/kernels/{a.kernel_id}/restart")
        new = await server.until(lambda row: row["managed"] and row["pid"] != old["pid"], a.kernel_id)
        assert (new["phase"], new["host_bytes"], new["footprint"]) == ("resident", 0, {})
        a.close()
        await a.connect()
        with pytest.raises(CellFailed, match="NameError"):
            await a.run("x")
        await reclaim(server, await filled(server, a))
        await server.shut_down(a)
        await server.until_gone(a.kernel_id)
        assert not {old["pid"], new["pid"]} & {process.pid for process in board.processes()}
        _, log = await server.call("GET", "/log")
        episodes: dict[str, list[str]] = {}
        for row in reversed(log["transitions"]):
            if row["kernel_id"] == a.kernel_id:
                episodes.setdefault(row["episode_id"], []).append(row["event"])
        assert len(episodes) == 2
        for events in episodes.values():
            assert events[:2] == ["reclaim_started", "reclaim_done"]
            # a kernel that ends in order restores first, for the user's own handlers at exit; the server may miss it
            assert events[2:] in (["restore_done"], ["kernel_gone"]), events

    server.run(story())


def test_a_pin_lasts_until_its_end_or_until_somebody_asks(
    server: RunningServer, shared: OpenNotebook
) -> None:
    """A pin is shown with its end and can be taken back; asking for the reclaim of a pinned kernel ends the pin."""

    async def story() -> None:
        a = await filled(server, shared)
        code, reply = await server.call("PUT", PIN, {"seconds": 600}, a.kernel_id)
        assert code == 200
        row = await server.until(lambda row: row["pinned_until"], a.kernel_id)
        assert row["pinned_until"] == reply["pinned_until"]
        assert (await server.call("DELETE", PIN, None, a.kernel_id))[0] == 204
        await server.until(lambda row: row["pinned_until"] is None, a.kernel_id)
        await server.call("PUT", PIN, {"seconds": 600}, a.kernel_id)
        row = await reclaim(server, a)
        assert row["pinned_until"] is None

    server.run(story())


def test_a_running_kernel_is_refused(server: RunningServer, shared: OpenNotebook) -> None:
    """While a cell runs a reclaim is answered 409 with the reason, and the cell goes on."""

    async def story() -> None:
        a = await filled(server, shared)
        running = asyncio.create_task(
            a.run("import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('done')")
        )
        await server.until(lambda row: row["running_since"], a.kernel_id)
        code, reply = await server.call("POST", RECLAIM, {}, a.kernel_id)
        assert (code, reply["reason"]) == (409, "running")
        (server.folder / "go").touch()
        assert await running == "done\n"

    server.run(story())


def test_a_child_that_holds_gpu_memory_is_background_work(
    server: RunningServer, board: Board, shared: OpenNotebook
) -> None:
    """A process that a cell left behind on the GPU keeps its kernel from being reclaimed, and is named."""

    async def story() -> None:
        a = await filled(server, shared)
        child = int(
            await a.run("import subprocess\nchild = subprocess.Popen(['sleep', '1000'])\nprint(child.pid)")
        )
        board.add_process(child, used_bytes=8 * MIB)
        try:
            row = await server.until(lambda row: row["background_work"], a.kernel_id)
            assert row["background_work"] == [f"child process {child} (sleep) holds GPU memory"]
            code, reply = await server.call("POST", RECLAIM, {}, a.kernel_id)
            assert (code, reply["reason"]) == (409, "background_work")
            assert str(child) in reply["message"]
        finally:
            board.remove_process(child)
            await a.run("child.kill(); child.wait()")

    server.run(story())


def test_bytes_without_an_owner_are_told_in_status_and_log(server: RunningServer) -> None:
    """What only the autograd engine knows stays on the GPU, told as unexplained by status and log, and stays right."""
    unexplained = "unexplained: no owner found"

    async def story() -> None:
        a = await filled(server, await server.open("unexplained.ipynb"))
        await a.run(
            "leaf = torch.ones(3000, device='simgpu', requires_grad=True)\n"
            "factor = torch.full((3000,), 2.0, device='simgpu', requires_grad=True)\n"
            "result = leaf.clone()\nresult[:1500] *= factor[:1500]"
        )
        row = await reclaim(server, a)
        assert 0 < row["unmovable"][unexplained] < MIB
        _, log = await server.call("GET", "/log")
        done = next(row for row in log["transitions"] if row["kernel_id"] == a.kernel_id)
        assert (done["event"], done["unmovable"]) == ("reclaim_done", row["unmovable"])
        await a.run("result.sum().backward()")
        assert await a.run("print(leaf.grad.sum().item(), factor.grad.sum().item())") == "4500.0 1500.0\n"
        assert await a.run(CHECK) == "True\n"
        await server.shut_down(a)

    server.run(story())


def test_a_dry_run_moves_nothing_and_says_what_it_would_have(tmp_path: Path, board: Board) -> None:
    """In a dry run an idle kernel's reclaim is logged as proposed, a request is answered 409, and no byte moves."""
    settings = {"GpuReclaim.mode": "dry_run", "GpuReclaim.idle_after_seconds": 0}

    async def story() -> None:
        a = await filled(server, await server.open("dry.ipynb"))
        row = await server.until(lambda row: row["decision"]["act"] == "reclaim", a.kernel_id)
        code, reply = await server.call("POST", RECLAIM, {}, a.kernel_id)
        assert (code, reply["reason"]) == (409, "dry_run")
        _, log = await server.call("GET", "/log")
        assert {row["event"] for row in log["transitions"]} == {"reclaim_proposed"}
        assert board.used_bytes(row["pid"]) >= HELD_BYTES + CONTEXT_BYTES
        await server.shut_down(a)

    with RunningServer(tmp_path, settings, environment(board.path)) as server:
        server.run(story())
