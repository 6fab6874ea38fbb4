"""A fleet: kernels are given to GPUs once, each GPU has a brain of its own, and their tallies add up.

No decision about one GPU depends on another while kernels use one GPU each, so that a fleet costs as much as its GPUs
one after the other. Kernels that use several GPUs are not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace

from jupyter_gpu_reclaim.core.model import Policy, Transition
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.gpu_replay import GpuReplay, Witness
from jupyter_gpu_reclaim.plan.tally import Tally
from jupyter_gpu_reclaim.plan.trace import Trace, TraceKernel


def placed(kernels: Sequence[TraceKernel], gpus: int) -> list[list[TraceKernel]]:
    """Kernels by GPU: in the order of their first cells, each to where the fewest bytes were given so far.

    The product places nobody: that is for whoever starts kernels, and an even share is the least they can do.
    """
    filled = [(0, number) for number in range(gpus)]
    heapify(filled)
    homes: list[list[TraceKernel]] = [[] for _ in range(gpus)]
    for kernel in sorted((k for k in kernels if k.rests), key=lambda k: (k.rests[0], k.kernel_id)):
        given, number = filled[0]
        homes[number].append(kernel)
        heapreplace(filled, (given + max(kernel.held) + 1, number))
    return homes


def replay(
    trace: Trace,
    gpus: int,
    policy: Policy,
    machine: Machine,
    tick_seconds: float = 5.0,
    witness: Witness | None = None,
    rows: list[Transition] | None = None,
    begin_reclaimed: bool = False,
    before: Sequence[Transition] = (),
) -> Tally:
    """What this policy brings on so many GPUs. `witness` sees each round, `rows` (if given) takes the log's rows.

    Kernels begin with nothing, or, with `begin_reclaimed`, with what their first cell holds in host memory. `before` are
    moves of before the beginning, as rows of the log in the trace's time: by them it is judged how much is moved.
    """
    total = Tally()
    for number, kernels in enumerate(placed(trace.kernels, gpus)):
        one = GpuReplay(
            f"GPU-{number:04d}",
            kernels,
            trace.span,
            policy,
            machine,
            tick_seconds,
            witness,
            rows,
            begin_reclaimed,
            [row for row in before if f"GPU-{number:04d}" in row.footprint],
        )
        total.add(one.run())
    return total
