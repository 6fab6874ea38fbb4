"""Which kernel a process on the GPU belongs to. A process once placed costs nothing at the next look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jupyter_gpu_reclaim.server.processes import lineage


class ProcessesByKernel:
    """Places processes under the kernel whose process tree they are part of."""

    def __init__(self) -> None:
        self._roots: Mapping[int, str] = {}
        self._placed: dict[int, str | None] = {}

    def place(self, pids: Iterable[int], roots: Mapping[int, str]) -> dict[int, str]:
        """Kernel id by pid, for those pids that have one of `roots` (kernel id by pid) as themselves or above them."""
        if roots != self._roots:
            self._roots, self._placed = dict(roots), {}
        self._placed = {pid: self._kernel_of(pid) for pid in pids}
        return {pid: kernel_id for pid, kernel_id in self._placed.items() if kernel_id is not None}

    def _kernel_of(self, pid: int) -> str | None:
        if pid in self._placed:
            return self._placed[pid]
        return next((self._roots[above] for above in lineage(pid) if above in self._roots), None)
