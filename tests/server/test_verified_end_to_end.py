"""A bit that flips in a real server's reclaim: seen in status and log, with nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import RunningServer
from test_end_to_end import CHECK, CONTEXT_BYTES, GPU_BYTES, HELD_BYTES, RECLAIM, filled, reclaim

from jupyter_gpu_reclaim.sim.board import FLIP_BIT, Board
from jupyter_gpu_reclaim.sim.environment import environment


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """One GPU of 256 MiB; freed memory is poisoned."""
    with Board.create(
        tmp_path / "board", [("GPU", GPU_BYTES)], context_bytes=CONTEXT_BYTES, poison=True
    ) as board:
        yield board


def test_a_flipped_bit_from_end_to_end(tmp_path: Path, board: Board) -> None:
    """The reclaim fails with the data whole, an alarm stands over a restart of the server and until it is cleared."""

    async def flipped(server: RunningServer) -> str:
        notebook = await filled(server, await server.open("notebook.ipynb"))
        board.set_fault("copy", FLIP_BIT, count=1)
        code, _ = await server.call("POST", RECLAIM, {}, notebook.kernel_id)
        assert code == 202
        row = await server.until(lambda row: row["distrusted"], notebook.kernel_id)
        assert row["phase"] == "resident"
        assert row["framework"].startswith("torch 2")
        assert row["footprint_bytes"] >= HELD_BYTES
        _, status = await server.call("GET", "/status")
        [alarm] = status["alarms"]
        assert alarm["gpu"] == board.gpus()[0].uuid
        assert "simulated" in alarm["driver"]
        assert any(alarm["id"] in problem for problem in status["problems"])
        _, log = await server.call("GET", "/log")
        assert [row["event"] for row in log["transitions"][:3]] == [
            "alarm_raised", "reclaim_failed", "reclaim_started",
        ]  # fmt: skip
        assert await notebook.run(CHECK) == "True\n"
        return alarm["id"]

    async def cleared(server: RunningServer, alarm_id: str) -> None:
        notebook = await filled(server, await server.open("another.ipynb"))
        code, reply = await server.call("POST", RECLAIM, {}, notebook.kernel_id)
        while reply.get("reason") == "gpu_busy":
            await server.until(lambda row: row["gpu_busy"] is False, notebook.kernel_id)
            code, reply = await server.call("POST", RECLAIM, {}, notebook.kernel_id)
        assert (code, reply["reason"]) == (409, "distrusted")
        assert alarm_id in reply["message"]
        assert (await server.call("DELETE", "/alarms/{alarm_id}", alarm_id=alarm_id))[0] == 204
        await reclaim(server, notebook)
        assert await notebook.run(CHECK) == "True\n"

    folder = tmp_path / "server"
    folder.mkdir()
    with RunningServer(folder, environment=environment(board.path)) as server:
        alarm_id = server.run(flipped(server))
    with RunningServer(folder, environment=environment(board.path)) as server:
        server.run(cleared(server, alarm_id))
