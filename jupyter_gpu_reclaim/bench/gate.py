"""What passing the gate costs one cell: the wrapped `do_execute` against the same coroutine bare, in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

from jupyter_gpu_reclaim.agent.gate import Gate
from jupyter_gpu_reclaim.agent.kernel_hooks import KernelHooks
from jupyter_gpu_reclaim.bench import Figure

ROUNDS, CELLS = 15, 5000


async def run_nothing(code: str, silent: bool, **kwargs: Any) -> dict[str, Any]:
    """Stands for a cell that takes no time, so that only the gate is measured."""
    return {"status": "ok"}


async def seconds_a_cell(do_execute: Callable[..., Awaitable[Any]]) -> float:
    """Mean over `CELLS` calls."""
    began = time.perf_counter()
    for _ in range(CELLS):
        await do_execute("pass", False)
    return (time.perf_counter() - began) / CELLS


async def measure() -> list[float]:
    """Seconds that the gate adds to a cell, one sample a round."""
    kernel = SimpleNamespace(
        do_execute=run_nothing,
        do_shutdown=run_nothing,
        shell_handlers={},
        control_handlers={},
        control_thread=None,
    )
    KernelHooks(kernel, Gate(lambda: None, lambda function: None)).install()
    samples = []
    for _ in range(ROUNDS):
        bare = await seconds_a_cell(run_nothing)
        samples.append(await seconds_a_cell(kernel.do_execute) - bare)
    return samples


def figures() -> Iterator[Figure]:
    """Microseconds per cell."""
    samples = asyncio.run(measure())
    yield Figure.of("gate", "the gate, per cell", "µs", [1e6 * s for s in samples], target=5)
