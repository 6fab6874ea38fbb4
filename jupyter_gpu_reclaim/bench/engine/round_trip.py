"""What a user's cell and a whole reclaim take in real kernels: one server with us and one without, side by side.

Cells go to the kernels' own zmq sockets, past the servers, to one kernel and to the other in turn. Each pair of
kernels is started anew, since two processes of the same code are never quite equally fast.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

from jupyter_gpu_reclaim.bench import Figure, Refused
from jupyter_gpu_reclaim.bench.engine.rig import Rig
from jupyter_gpu_reclaim.bench.engine.witness import GROUP
from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook

FILL = "import torch; x = torch.arange(1 << 20, dtype=torch.int32, device='{device}')"
CHECK = "print(bool((x.cpu() == torch.arange(1 << 20, dtype=torch.int32)).all()))"
REPLY_SECONDS = 60
WARM_UP_CELLS = 50


def figures(rig: Rig, kernels: int, chunks: int, cells: int) -> Iterator[Figure]:
    """`kernels` pairs of kernels, for each `chunks` samples of the ratio of two medians over `cells` cells each."""
    ratios, orders = asyncio.run(measure(rig.device.type, kernels, chunks, cells))
    yield Figure.of(GROUP, "`pass` cell's round trip over zmq ÷ without the agent", "×", ratios, target=1.02)
    what = "a reclaim in a real kernel of 4 MB, from the log's intent to its outcome"
    yield Figure.of(GROUP, f"{what} (0.25 s of it: the last look at background work)", "s", orders)


async def measure(device: str, kernels: int, chunks: int, cells: int) -> tuple[list[float], list[float]]:
    """(ratios, seconds of whole reclaims)."""
    ratios: list[float] = []
    orders: list[float] = []
    with tempfile.TemporaryDirectory(prefix="gpu-reclaim-bench-") as temporary:
        folder = Path(temporary)
        async with (
            JupyterServer(folder / "with") as with_us,
            JupyterServer(folder / "without", enabled=False) as without_us,
        ):
            for number in range(kernels):
                pair = [
                    await server.open_notebook(f"cells-{number}.ipynb") for server in (with_us, without_us)
                ]
                for notebook in pair:
                    await notebook.run(FILL.format(device=device))
                await pair[0].wait_for_phase("resident")
                ratios += await asyncio.to_thread(in_turn, *pair, chunks, cells)
                orders.append(await reclaimed(pair[0]))
                for notebook in pair:
                    await notebook.server.request("DELETE", f"/api/kernels/{notebook.kernel_id}")
    return ratios, orders


def in_turn(ours: OpenNotebook, theirs: OpenNotebook, chunks: int, cells: int) -> list[float]:
    """Ratios of the median round trips, chunk by chunk; who comes first changes with every cell."""
    clients = [connected(ours), connected(theirs)]
    for client in clients:
        for _ in range(WARM_UP_CELLS):
            round_trip(client)
    ratios = []
    for _ in range(chunks):
        seconds: tuple[list[float], list[float]] = ([], [])
        for number in range(cells):
            for which in (0, 1) if number % 2 else (1, 0):
                seconds[which].append(round_trip(clients[which]))
        ratios.append(median(seconds[0]) / median(seconds[1]))
    for client in clients:
        client.stop_channels()
    return ratios


def connected(notebook: OpenNotebook) -> Any:
    """A client of the kernel itself, by the connection file that its server wrote."""
    file = notebook.server.folder / "runtime" / f"kernel-{notebook.kernel_id}.json"
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=REPLY_SECONDS)
    return client


def round_trip(client: Any) -> float:
    """Seconds from the request until its reply and the word that the kernel is idle again are both here."""
    began = time.perf_counter()
    request = client.execute("pass")
    reply = client.get_shell_msg(timeout=REPLY_SECONDS)
    if reply["content"]["status"] != "ok" or reply["parent_header"]["msg_id"] != request:
        raise Refused(f"a `pass` cell was answered with {reply['content']}")
    while True:
        message = client.get_iopub_msg(timeout=REPLY_SECONDS)
        of_ours = message["parent_header"].get("msg_id") == request
        if of_ours and message["content"].get("execution_state") == "idle":
            return time.perf_counter() - began


async def reclaimed(notebook: OpenNotebook) -> float:
    """Seconds from the intent in the log to the outcome there; then a cell brings the bytes back and checks them."""
    path = f"/gpu-reclaim/api/kernels/{notebook.kernel_id}/reclaim"
    async with asyncio.timeout(REPLY_SECONDS):
        # refused (409) until the agent has looked for background work after the last cell
        while "decision" not in await notebook.server.request("POST", path, {}, accept=(409,)):
            await asyncio.sleep(0.2)
    await notebook.wait_for_phase("reclaimed")
    log = await notebook.server.request("GET", "/gpu-reclaim/api/log?limit=1000")
    rows = [row for row in log["transitions"] if row["kernel_id"] == notebook.kernel_id]
    at = {row["event"]: datetime.fromisoformat(row["at"]) for row in rows}
    if (await notebook.run(CHECK)).strip() != "True":
        raise Refused("a kernel's bytes were not equal after its reclaim")
    return (at["reclaim_done"] - at["reclaim_started"]).total_seconds()
