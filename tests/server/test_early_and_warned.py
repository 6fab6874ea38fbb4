"""Warnings and early restores through a real server and real kernels; only the GPU is simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from running_server import RunningServer

from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.environment import environment

MIB = 1 << 20
SETTINGS = {"GpuReclaim.idle_after_seconds": 4, "GpuReclaim.warn_before_seconds": 60}
FILL = "import torch\nx = torch.arange({} * 2**20 // 4, dtype=torch.float32).to('simgpu')"
CHECK = "print(torch.equal(x.cpu(), torch.arange({} * 2**20 // 4, dtype=torch.float32)))"
PREFETCH, PIN = "/kernels/{kernel_id}/prefetch", "/kernels/{kernel_id}/pin"


async def look_after(server: RunningServer, instant: str) -> dict[str, Any]:
    """The first status of a look taken after this instant."""
    while True:
        _, status = await server.call("GET", "/status")
        if status["taken_at"] > instant:
            return status


def test_a_warning_is_answered_with_keep_and_a_return_with_early_data(tmp_path: Path) -> None:
    """Warned, kept past the deadline, warned anew and reclaimed; brought back early while there is room, else not."""

    async def story() -> None:
        a = await server.open("a.ipynb")
        await a.run(FILL.format(64))
        row = await server.until(lambda row: row["warned_at"], a.kernel_id)
        assert row["phase"] == "resident"
        assert row["due_at"] > row["warned_at"]
        code, _ = await server.call("PUT", PIN, {"seconds": 600}, a.kernel_id)
        assert code == 200
        status = await look_after(server, row["due_at"])
        (kept,) = status["kernels"]
        assert (kept["phase"], kept["decision"]["reason"], kept["warned_at"]) == ("resident", "pinned", None)
        await server.call("DELETE", PIN, None, a.kernel_id)
        again = await server.until(lambda row: row["warned_at"], a.kernel_id)
        assert again["warned_at"] > row["due_at"]
        gone = await server.until(lambda row: row["phase"] == "reclaimed", a.kernel_id)
        assert gone["phase_since"] >= again["due_at"]

        code, reply = await server.call("POST", PREFETCH, {}, a.kernel_id)
        assert (code, reply["decision"]["reason"]) == (202, "prefetch")
        back = await server.until(lambda row: row["phase"] == "resident", a.kernel_id)
        assert back["restored_early"]
        await server.until(lambda row: row["phase"] == "reclaimed", a.kernel_id)

        b = await server.open("b.ipynb")
        await server.call("PUT", PIN, {"seconds": 600}, b.kernel_id)
        await b.run(FILL.format(180))
        code, reply = await server.call("POST", PREFETCH, {}, a.kernel_id)
        assert (code, reply["reason"]) == (409, "no_spare_room")
        await server.call("DELETE", PIN, None, b.kernel_id)
        await server.until(lambda row: row["phase"] == "reclaimed", b.kernel_id)
        assert await a.run(CHECK.format(64)) == "True\n"
        assert await b.run(CHECK.format(180)) == "True\n"
        for notebook in (a, b):
            await server.shut_down(notebook)

    with (
        Board.create(tmp_path / "board", [("GPU", 256 * MIB)], context_bytes=16 * MIB, poison=True) as board,
        RunningServer(tmp_path, SETTINGS, environment(board.path)) as server,
    ):
        server.run(story())
