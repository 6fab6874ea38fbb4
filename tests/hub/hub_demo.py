"""`make hub-demo`: a JupyterHub with our service to look at: two users whose notebooks share a simulated GPU, an admin."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import nbformat
from documented_hub import BUILT_ONCE, as_documented
from real_hub import RealHub, free_ports, missing

from jupyter_gpu_reclaim.bench.log import postgresql
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import environment

PORT = 8000
GPU = ("Simulated GPU 2 GiB", 2 << 30)  # room for the notebook of one of the two users
CELLS = (
    "import torch\nx = torch.ones(300 << 20, device='simgpu')  # 1.2 GiB",
    "x += 1\nprint(x[0].item(), x[-1].item())  # as often as this cell ran, whatever happened in between",
)
SETTINGS = {
    "GpuReclaim.cooldown_seconds": 5,
    "GpuReclaim.max_moving_share": 0,  # cells take no time here, so nearly all of it is spent moving
    "GpuReclaim.min_reclaim_bytes": MiB,
    "GpuReclaim.warn_before_seconds": 10,
    "GpuReclaim.tick_seconds": 1,
    "GpuReclaim.sample_seconds": 1,
}
POLICIES = """\
timezone: UTC
rules:
  - name: students
    match: {groups: [students]}
    set: {idle_after_seconds: 60, pressure_idle_after_seconds: 5}
  - name: everybody
    set: {idle_after_seconds: 300, pressure_idle_after_seconds: 5}
"""
GUIDE = """
  The Hub             {url}/
  alice, a student    password {password}
  bob                 password {password}
  admin               password {admin}
  The service         {url}/services/gpu-reclaim/   (as admin: the whole fleet; as alice or bob: what is theirs)

  The database is {database}; rules are in {policies}: change them, and they hold at once.

  1. Log in as alice, open gpu.ipynb and run both cells. In another browser profile log in as bob and do the same: there
     is room for one of them, so alice's notebook gives way, and comes back with its next cell as it was.
  2. In a third log in as admin at the service's address: who holds what, who waits, the log with both sides, policies.

  Ctrl-C ends all of it; nothing of it stays.
"""


def say(text: str) -> None:
    """A line for whoever started it."""
    print(text, flush=True)


def port() -> int:
    """The usual one, or another if somebody listens there."""
    with suppress(OSError), socket.create_server(("127.0.0.1", PORT)):
        return PORT
    return free_ports(1)[0]


def lay_notebooks(homes: Path) -> None:
    """The same notebook for both users."""
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for name in ("alice", "bob"):
        (homes / name).mkdir(parents=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), homes / name / "gpu.ipynb")


async def play(folder: Path, board: Board, db_url: str, database: str) -> None:
    """The hub until it is ended."""
    at = port()
    hub = RealHub(
        folder / "hub",
        SETTINGS,
        {**environment(board.path), **BUILT_ONCE},
        db_url=db_url,
        more_config=as_documented(folder, at, db_url, POLICIES),
        port=at,
    )
    say("Starting the Hub …")
    async with hub:
        lay_notebooks(hub.folder / "home")
        say(
            GUIDE.format(
                url=hub.url,
                password=hub.password,
                admin=hub.password_of("admin"),
                database=database,
                policies=folder / "policies.yaml",
            )
        )
        try:
            await hub.ended()
        finally:
            say("Ending users' servers, the Hub and its database …")


def main() -> None:
    """Until Ctrl-C. Exits with 1 and what is missing if it cannot be shown here."""
    if problem := missing():
        sys.exit(f"The hub cannot be shown here: {problem}.")
    ensure_built(say)
    with ExitStack() as started:
        folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="hub-demo-")))
        folder.chmod(0o755)
        board = started.enter_context(Board.create(folder / "board", [GPU], context_bytes=16 * MiB))
        db_url, database = f"sqlite:///{folder / 'hub.sqlite'}", "SQLite (no PostgreSQL is installed here)"
        if postgresql.missing() is None:
            server = postgresql.PostgresqlServer()
            started.callback(server.remove)
            server.start()
            started.callback(server.stop)
            db_url, database = server.url(), "PostgreSQL"
        with suppress(KeyboardInterrupt):
            asyncio.run(play(folder, board, db_url, database))


if __name__ == "__main__":
    main()
