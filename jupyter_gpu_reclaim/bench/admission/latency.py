"""From the word that user code waits to the order to bring its bytes back, with 100 kernels: all but the copy.

Real: the agents' socket, the observer with the simulated GPU's NVML, the loop, the log on SQLite. The agents are one
process of stand-ins that speak the protocol and move nothing, and Jupyter's own managers are stand-ins with no kernels
behind them, so that 100 kernels fit on a small machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.config import PolicyTraits
from jupyter_gpu_reclaim.gpu.nvml import Nvml
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reconciler import Reconciler
from jupyter_gpu_reclaim.server.app import SystemClock
from jupyter_gpu_reclaim.server.injection import Injection
from jupyter_gpu_reclaim.server.kernels import AgentKernels
from jupyter_gpu_reclaim.server.labels import NotebookLabels
from jupyter_gpu_reclaim.server.link import AgentLinks
from jupyter_gpu_reclaim.server.observer import ServerObserver
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import preload_nvml

KERNELS, HITS, SECONDS_BETWEEN, ROUNDS = 100, 400, 0.25, 4
LOG = logging.LoggerAdapter(logging.getLogger(__name__))


class NoKernels(dict):
    """Jupyter's kernel and session managers, as far as the observer asks them: names, and nothing behind them."""

    def list_kernel_ids(self) -> list[str]:
        """All of them."""
        return list(self)

    def get_kernel(self, kernel_id: str) -> Any:
        """A kernel without a process."""
        return self[kernel_id]

    async def list_sessions(self) -> list[dict[str, Any]]:
        """A notebook for each."""
        return [{"kernel": {"id": kernel_id}, "path": f"{kernel_id}.ipynb"} for kernel_id in self]


async def measure(folder: Path) -> list[float]:
    """Seconds from each hit of the gate to its order."""
    with Board.create(folder / "board", gpus=[("Simulated GPU 80 GiB", 80 << 30)]) as board:
        gpu = board.gpus()[0].uuid
    preload_nvml(folder / "board")
    names = [f"kernel-{number}" for number in range(KERNELS)]
    managers = NoKernels((name, SimpleNamespace(kernel_name="python3", provisioner=None)) for name in names)
    async with AsyncExitStack() as started:
        log = SqlReclaimLog(f"sqlite:///{folder / 'log.sqlite'}")
        started.push_async_callback(log.close)
        links = AgentLinks(folder, {"sample_seconds": 5.0}, LOG, lambda kernel_id: reconciler.wake())
        injection = Injection(KernelProvisionerFactory(), links, folder / "startup.py", LOG)
        labels = NotebookLabels(managers, LOG)
        observer = ServerObserver(managers, labels, links, injection, Nvml(), "bench")
        started.push_async_callback(observer.close)
        policy = PolicyTraits().to_policy()
        reconciler = Reconciler(observer, AgentKernels(links, LOG), log, SystemClock(), policy)
        started.push_async_callback(links.stop)
        await links.start()
        started.push_async_callback(reconciler.stop)
        loop = asyncio.create_task(reconciler.run())
        agents = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "jupyter_gpu_reclaim.bench.admission.agents",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        task = {
            "socket": str(links.path),
            "gpu": gpu,
            "secrets": {name: links.invite(name, lambda: agents.pid) for name in names},
            "hits": HITS,
            "seconds_between": SECONDS_BETWEEN,
        }
        told, _ = await agents.communicate(json.dumps(task).encode() + b"\n")
        assert not loop.done()
        return json.loads(told)


def figures() -> Iterator[Figure]:
    """Milliseconds: the median, and of each round of hits the 99th percentile."""
    ensure_built(lambda line: None)
    with tempfile.TemporaryDirectory(prefix="gpu-reclaim-bench-") as folder:
        samples = [1e3 * seconds for seconds in asyncio.run(measure(Path(folder)))]
    size = len(samples) // ROUNDS
    rounds = [sorted(samples[i * size : (i + 1) * size]) for i in range(ROUNDS)]
    what = f"from the gate to the onload's start, {KERNELS} kernels"
    yield Figure.of("admission", what, "ms", samples)
    tails = [each[min(size - 1, round(0.99 * size))] for each in rounds]
    yield Figure.of("admission", f"{what}: 99th percentile", "ms", tails, target=15)
