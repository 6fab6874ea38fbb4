"""What 30 idle kernels cost with us and without us, in the same minutes on the same machine.

Two servers run side by side, one with the extension; every kernel holds a tensor on a simulated GPU and then does
nothing. CPU time is the scheduler's own account (`/proc/<pid>/task/*/schedstat`, nanoseconds). Our share is what works
for us and for nobody else: our callbacks on the server's event loop with all that they call, the server's other
threads, and the agents' threads in the kernels. What the two servers and their kernels differ by in all has that in it
too, and whatever else we should cost; but it is a small difference of large sums, and on a machine whose speed varies
it says less. Settings are the defaults: ticks of 5 s.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import environment

KERNELS = 30
SETTLE_SECONDS = 330  # by then agents in which nothing changes are at their longest rest (5 + 10 + … + 160 s)
WINDOWS, WINDOW_SECONDS = 5, 60  # together as long as that rest, so that each agent looks once
GPU = ("Simulated GPU 80 GiB", 80 << 30)
CELL = """
import os, threading, torch
x = torch.ones(1 << 20, device='simgpu')
print(os.getpid(), *(t.native_id for t in threading.enumerate() if t.name.startswith('gpu-reclaim')))
"""


@dataclass(frozen=True, slots=True)
class Crowd:
    """A server and its kernels: process ids, and the agents' threads in each kernel."""

    server: JupyterServer
    agents: dict[int, list[int]]

    def cpu_seconds(self) -> float:
        """CPU time used so far by all of them."""
        return sum(sum(threads(pid).values()) for pid in (self.server.pid, *self.agents))

    def cpu_seconds_for_us(self) -> float:
        """The same of the agents' threads, and of the server's but for the one that runs its event loop."""
        beside = threads(self.server.pid)
        del beside[self.server.pid]
        agents = (threads(pid)[thread] for pid, own in self.agents.items() for thread in own)
        return sum(beside.values()) + sum(agents)


def threads(pid: int) -> dict[int, float]:
    """CPU time used so far by each thread of a process, in seconds."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return {int(stat.parent.name): int(stat.read_text().split()[0]) / 1e9 for stat in stats}


async def start_kernels(server: JupyterServer) -> Crowd:
    """Starts the kernels four at a time, runs the cell in each, and closes the websockets."""
    gate = asyncio.Semaphore(4)

    async def one(number: int) -> tuple[int, list[int]]:
        async with gate:
            notebook: OpenNotebook = await server.open_notebook(f"idle-{number}.ipynb")
            pid, *own = map(int, (await notebook.run(CELL)).split())
            notebook.close()
            return pid, own

    return Crowd(server, dict(await asyncio.gather(*(one(number) for number in range(KERNELS)))))


@dataclass(slots=True)
class Measured:
    """One value per window: shares of one core, and seconds."""

    ours: list[float] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    holds: list[float] = field(default_factory=list)
    other_holds: list[float] = field(default_factory=list)


async def measure() -> Measured:
    """Two servers side by side, once they have settled."""
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
            found = Measured()
            for _ in range(WINDOWS):
                loop = (await with_us.request("GET", "/gpu-reclaim-bench"))["cpu"]["ours"]
                began, beside, a, b = (
                    time.monotonic(), ours.cpu_seconds_for_us(), ours.cpu_seconds(), theirs.cpu_seconds(),
                )  # fmt: skip
                await asyncio.sleep(WINDOW_SECONDS)
                took, beside = time.monotonic() - began, ours.cpu_seconds_for_us() - beside
                a, b = ours.cpu_seconds() - a, theirs.cpu_seconds() - b
                told = await with_us.request("GET", "/gpu-reclaim-bench")
                found.ours.append((told["cpu"]["ours"] - loop + beside) / took)
                found.differences.append((a - b) / took)
                found.holds.append(told["ours"])
                found.other_holds.append(told["others"])
            return found


def figures() -> Iterator[Figure]:
    """Our share of a core, and the longest our callbacks held the server's event loop."""
    ensure_built(lambda line: None)
    found = asyncio.run(measure())
    what = f"with {KERNELS} idle kernels"
    shares = {
        f"our share of one core {what}": (found.ours, 0.2),
        f"a server and its kernels {what}, less one without us": (found.differences, None),
    }
    for name, (samples, target) in shares.items():  # the median would leave out what one window alone has
        yield Figure.of("idle", name, "%", [100 * share for share in samples], target=target, middle=mean)
    yield Figure.of(
        "idle", f"our longest hold of the event loop {what}", "ms", [1e3 * s for s in found.holds], target=5
    )
    yield Figure.of(
        "idle", "longest hold by anything else in that server", "ms", [1e3 * s for s in found.other_holds]
    )
