"""Which GPU each kernel of a replay is started on. It stays there: a kernel cannot be restored to another GPU."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace

from jupyter_gpu_reclaim.plan.trace import TraceKernel


def placed(kernels: Sequence[TraceKernel], gpus: int, places: int = 0) -> list[list[TraceKernel]]:
    """Kernels by GPU, in the order of their first cells, each to where the fewest bytes were given so far.

    With running `places` (`max_running_per_gpu`) it is kernels that compete, so each goes to where the fewest are, and
    bytes decide between equals. The product places nobody: that is for whoever starts kernels, and an even share is
    the least they can do.
    """
    filled = [(0, 0, number) for number in range(gpus)]
    heapify(filled)
    homes: list[list[TraceKernel]] = [[] for _ in range(gpus)]
    for kernel in sorted((k for k in kernels if k.rests), key=lambda k: (k.rests[0], k.kernel_id)):
        crowd, given, number = filled[0]
        homes[number].append(kernel)
        heapreplace(filled, (crowd + (places > 0), given + max(kernel.held) + 1, number))
    return homes
