"""What admission costs: from the gate to the onload with 100 kernels, and the event loop's longest hold with 1,000."""

from __future__ import annotations

from collections.abc import Iterator

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.admission import crowd, latency


def figures() -> Iterator[Figure]:
    """Milliseconds."""
    yield from latency.figures()
    yield from crowd.figures()
