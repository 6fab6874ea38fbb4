"""Jupyter servers with us in them that run as other Unix users, with kernels that do, too, on one simulated GPU."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jupyter_server
from running_server import SETTINGS, RunningServer

from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.build import cache_folder, nvml_library, torch_device_library
from jupyter_gpu_reclaim.sim.environment import environment

T = TypeVar("T")
READING_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def become(uid: int) -> list[str] | None:
    """What to put before a command so that it runs as this user; None where such a process could not run at all.

    The interpreter and what was built may lie in a home that is closed to others. Then the process may read whatever
    root may, if we can have it so; it can write no more than the user.
    """
    needed = [jupyter_server.__file__, str(nvml_library()), str(torch_device_library())]
    for rights in ((), READING_ALL):
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *rights]
        # the interpreter is started again from inside, as kernels are: the first start still had root's rights
        read = "import subprocess, sys\nfor path in sys.argv[1:]: open(path).close()\n"
        read += "subprocess.run([sys.executable, '-c', ''], check=True)"
        if not subprocess.run(
            [*command, sys.executable, "-c", read, *needed], capture_output=True
        ).returncode:
            return command
    return None


@dataclass
class UserServer(JupyterServer):
    """As `JupyterServer`; root starts it and gives it away to user `uid`. May be started again after its end."""

    uid: int = 0

    async def __aenter__(self) -> UserServer:
        for name in ("runtime", "config", "data", "ipython"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, self.uid, self.uid)
        await super().__aenter__()
        return self

    async def kill(self) -> None:
        """kill -9 of the server alone; its kernels notice by themselves."""
        os.kill(self.pid, signal.SIGKILL)
        await self._process.wait()

    def _command(self) -> list[str]:
        return [*become(self.uid), *super()._command()]

    def _environment(self) -> dict[str, str]:
        user = f"user{self.uid}"
        home = {"HOME": str(self.folder), "USER": user, "LOGNAME": user}
        return {**super()._environment(), **home, "XDG_CACHE_HOME": str(cache_folder().parents[1])}


class Desk:
    """One user at work: a server, a notebook with 96 MiB on the GPU, and how often its data was changed."""

    HELD_BYTES = 96 << 20

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.notebook: OpenNotebook
        self.step = 0

    async def open(self) -> None:
        """A fresh kernel, with torch."""
        self.notebook = await self.server.open("a.ipynb")
        self.step = 0
        await self.notebook.run(
            "import torch\ntorch.set_num_threads(1)\n"
            "def fresh(): return torch.arange(24 * 2**20, dtype=torch.int32)"
        )

    async def fill(self) -> None:
        """Put the data on the GPU, which must have room for it."""
        await self.notebook.run("x = fresh().to('simgpu')")
        await self.server.until(
            lambda row: row["mechanism"] and row["footprint_bytes"] >= self.HELD_BYTES,
            self.notebook.kernel_id,
        )

    async def work(self) -> None:
        """One cell that needs the data on the GPU, changes it, and compares it to the last number."""
        self.step += 1
        answer = await self.notebook.run(f"x += 1\nprint(torch.equal(x.cpu(), fresh() + {self.step}))")
        assert answer == "True\n"

    async def be_reclaimed(self) -> None:
        """Ask for the reclaim, again while the kernel is still seen at work, and wait for it.

        It may have given way to somebody else already.
        """
        where = ("/kernels/{kernel_id}/reclaim", {}, self.notebook.kernel_id)
        while True:
            code, reply = await self.server.call("POST", *where)
            if code == 202 or reply["reason"] in ("already_reclaimed", "in_flight"):
                break
            assert reply["reason"] in ("gpu_busy", "running", "background_unknown"), reply
            await asyncio.sleep(0.05)
        await self.server.until(lambda row: row["phase"] == "reclaimed", self.notebook.kernel_id)

    async def log(self) -> list[tuple[str, str | None]]:
        """What became of the kernel: (event, reason), oldest first."""
        where = f"/gpu-reclaim/api/log?kernel_id={self.notebook.kernel_id}&limit=500"
        log = await self.server.jupyter.request("GET", where)
        return [(row["event"], row["reason"]) for row in reversed(log["transitions"])]


class Machine:
    """Three users' servers and desks, the GPU they share, and the loop for all of them. A context manager."""

    def __init__(self, folder: Path, board: Board, settings: dict[str, Any]) -> None:
        self.board = board
        self.node_dir = folder / "node"
        self.node_dir.mkdir()
        self.node_dir.chmod(0o1777)
        self._runner = asyncio.Runner()
        self.desks = []
        for uid in (20001, 20002, 20003):
            home = folder / f"user{uid}"
            server = RunningServer(home)
            options = {**SETTINGS, "GpuReclaim.node_dir": str(self.node_dir), **settings}
            server.jupyter = UserServer(home, options, environment(board.path), uid=uid)
            self.desks.append(Desk(server))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`."""
        return self._runner.run(work)

    def __enter__(self) -> Machine:
        self.run(self._start())
        return self

    async def _start(self) -> None:
        await asyncio.gather(*(desk.server.jupyter.__aenter__() for desk in self.desks))
        await asyncio.gather(*(desk.open() for desk in self.desks))

    def __exit__(self, *error: object) -> None:
        self.run(self._end())
        self._runner.close()

    async def _end(self) -> None:
        await asyncio.gather(*(desk.server.jupyter.__aexit__(None, None, None) for desk in self.desks))
