"""The agents of many kernels in one process of their own: `python -m jupyter_gpu_reclaim.bench.admission.agents`.

Reads `{"socket", "gpu", "secrets": {kernel id: secret}, "hits", "seconds_between"}` as one line of JSON, and writes a
line with a list: for each hit the seconds from the word that user code waits to the order to bring its bytes back.
Each kernel says that it is reclaimed, waits, is told to resume, says it has, and later that it is reclaimed again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from typing import Any

from jupyter_gpu_reclaim.agent import protocol

NEEDED_BYTES = 16 << 20
RECLAIMED_AFTER_SECONDS = 0.5
SETTLED_AFTER_SECONDS = 3.0  # by then the server has settled who says what, and all is quiet
PATIENCE_SECONDS = 30.0


class StandIn:
    """One kernel's agent: it speaks the protocol, and moves nothing."""

    def __init__(self, kernel_id: str, gpu: str) -> None:
        self.kernel_id = kernel_id
        self._gpu = gpu
        self._ordered: asyncio.Future[float] | None = None

    async def connect(self, socket_path: str, secret: str) -> None:
        """Say hello, then answer whatever comes."""
        self._reader, self._writer = await asyncio.open_unix_connection(socket_path)
        self._say(
            "hello", version=protocol.VERSION, kernel_id=self.kernel_id, secret=secret, pid=os.getpid(),
            python="3", ipykernel="0", phase=protocol.RECLAIMED,
        )  # fmt: skip
        self._status(protocol.RECLAIMED, 0)
        self._answering = asyncio.create_task(self._answer())

    async def hit(self) -> float:
        """User code reaches the gate. Seconds until the order came."""
        self._ordered = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._say("restore_wanted", cells=1, trigger="execute")
        ended = await asyncio.wait_for(self._ordered, PATIENCE_SECONDS)
        self._later = asyncio.get_running_loop().call_later(
            RECLAIMED_AFTER_SECONDS, self._status, protocol.RECLAIMED, 0
        )
        return ended - began

    def _say(self, op: str, **keys: Any) -> None:
        self._writer.write(protocol.encode({"op": op, **keys}))

    def _status(self, phase: str, waiting: int) -> None:
        self._say(
            "status", phase=phase, waiting=waiting, background_work=[], allocator_active=False, gpus={},
            mechanism="torch_offload", needed_bytes={self._gpu: NEEDED_BYTES}, host_bytes=NEEDED_BYTES,
        )  # fmt: skip

    async def _answer(self) -> None:
        while line := await self._reader.readline():
            message = json.loads(line)
            if message["op"] == "resume":
                if self._ordered is not None and not self._ordered.done():
                    self._ordered.set_result(time.perf_counter())
                self._status(protocol.RESIDENT, 0)
                self._say(
                    "reply", re=message["id"], outcome="done", moved_bytes=NEEDED_BYTES, took_seconds=0.001,
                    freed_bytes={}, needed_bytes={}, unmovable={}, spilled_bytes=0,
                )  # fmt: skip


async def main(task: dict[str, Any]) -> list[float]:
    """Hits at random instants, kernel after kernel."""
    agents = [StandIn(kernel_id, task["gpu"]) for kernel_id in task["secrets"]]
    for agent in agents:
        await agent.connect(task["socket"], task["secrets"][agent.kernel_id])
    await asyncio.sleep(SETTLED_AFTER_SECONDS)
    hits = []
    chance = random.Random(1)
    for number in range(task["hits"]):
        await asyncio.sleep(chance.expovariate(1 / task["seconds_between"]))
        hits.append(asyncio.create_task(agents[number % len(agents)].hit()))
    return await asyncio.gather(*hits)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.stdin.readline())))), flush=True)
