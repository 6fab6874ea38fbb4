"""A process with the simulated GPU in which scenarios of `offload_*.py` are run by name.

    python offload_process.py BOARD     then, line by line: "module function argument …" → one line of JSON

A scenario returns a dict of facts, which the test asserts. In the process, the mechanism works in a thread of its own
with automatic garbage collection off, as the agent has it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.sim.board import Board

GIB = 1 << 30
HERE = Path(__file__).parent


class DeviceProcess:
    """The test's end. Starts with the first scenario, again after a crash."""

    def __init__(self, folder: Path):
        self._board_path = folder / "board"
        with Board.create(self._board_path, [("one", 4 * GIB), ("two", 2 * GIB)]) as board:
            board.poison()
            board.protect()
        self._process: subprocess.Popen[str] | None = None

    def run(self, module: str, scenario: str, *arguments: str) -> dict[str, Any]:
        """The facts of a scenario. Raises AssertionError with its traceback when it raised, or ended the process."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-X", "faulthandler", __file__, str(self._board_path)],
                env={**os.environ, "JUPYTER_GPU_RECLAIM_SIM_BOARD": str(self._board_path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(module, scenario, *arguments, file=stdin, flush=True)
        answer = stdout.readline()
        if not answer:
            code = self._process.wait(timeout=30)
            self._process = None
            raise AssertionError(f"{scenario} ended the process with {code}")
        facts = json.loads(answer)
        if "raised" in facts:
            raise AssertionError(f"{scenario} raised:\n{facts['raised']}")
        return facts

    def close(self) -> None:
        """End the process. The next scenario would have a new one."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            assert self._process.wait(timeout=30) == 0
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class Bench:
    """What a scenario works with: one mechanism, its worker thread, and the board."""

    def __init__(self, board_path: str):
        import torch

        from jupyter_gpu_reclaim.agent import torch_offload

        self.torch = torch
        self.mechanism = torch_offload.TorchOffload()
        self.at_start = {
            "gpus": self.mechanism.gpus(),
            "counters": self.mechanism.counters(),
            "initialized": torch.simgpu.is_initialized(),
        }
        self.board = Board.attach(board_path)
        self._worker = ThreadPoolExecutor(1)
        self.in_this_thread = False  # whether the mechanism works in the scenario's own thread
        self.pooled_address = None  # of the block that the allocator's list is to show in a private pool
        self.mechanism._accelerator._snapshot = self._snapshot

    def offload(self, **arguments: Any) -> Any:
        """`Offloaded`; checks that every byte still allocated has a reason in it."""
        from jupyter_gpu_reclaim.agent.torch_offload.outcome import NOT_OURS

        gc.disable()
        try:
            result = self._call(self.mechanism.offload, **arguments)
        finally:
            if not self.mechanism.offloaded:
                gc.enable()
        explained = sum(n for reason, n in result.unmovable.items() if reason != NOT_OURS)
        assert self.allocated() == explained, (self.allocated(), result.unmovable)
        return result

    def offload_or_refusal(self) -> Any:
        """What `offload` gives, or `NothingToMove`; both tell what stays."""
        from jupyter_gpu_reclaim.agent.torch_offload import NothingToMove

        try:
            return self.offload()
        except NothingToMove as refusal:
            return refusal

    def onload(self) -> Any:
        """`Onloaded`."""
        result = self._call(self.mechanism.onload)
        gc.enable()
        return result

    def _call(self, act: Any, **arguments: Any) -> Any:
        if self.in_this_thread:
            return act(**arguments)
        return self._worker.submit(act, **arguments).result()

    def _snapshot(self, **arguments: Any) -> list[dict[str, Any]]:
        """The device's list of segments, the pooled block in one of its own as `torch.cuda.MemPool` would have it."""
        segments = self.torch.simgpu.memory_snapshot(**arguments)
        for segment in list(segments):
            pooled = [block for block in segment["blocks"] if block["address"] == self.pooled_address]
            for block in pooled:
                segment["blocks"].remove(block)
                segments.append(
                    {**segment, "address": block["address"], "segment_pool_id": (0, 1), "blocks": [block]}
                )
        return segments

    def cycle(self) -> Any:
        """Offload and onload; what the offload said."""
        result = self.offload()
        self.onload()
        return result

    def allocated(self) -> int:
        """Bytes allocated on all devices."""
        return sum(gpu["allocated_bytes"] for gpu in self.mechanism.gpus().values())

    def reserved(self) -> int:
        """Bytes reserved on all devices."""
        return sum(gpu["reserved_bytes"] for gpu in self.mechanism.gpus().values())

    def clean(self) -> None:
        """Nothing of the last scenario is left: a leak would show here, in the next scenario."""
        self.board.clear_faults()
        self.in_this_thread, self.pooled_address = False, None
        if self.mechanism.offloaded:
            self.onload()
        while gc.collect() and self.allocated():
            pass  # what one collection frees may hold what the next one finds
        self.torch.accelerator.empty_cache()
        assert self.allocated() == 0, self.torch.simgpu.memory_snapshot()


def main() -> None:
    """The process's end."""
    bench = Bench(sys.argv[1])
    sys.path.insert(0, str(HERE))
    for line in sys.stdin:
        module, scenario, *arguments = line.split()
        try:
            bench.clean()
            facts = getattr(importlib.import_module(module), scenario)(bench, *arguments)
        except BaseException:
            facts = {"raised": traceback.format_exc()}
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
