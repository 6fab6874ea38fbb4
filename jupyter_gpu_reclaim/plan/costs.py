"""What a replay's machines are like: memory, and how long a move takes."""

from __future__ import annotations

from dataclasses import dataclass

from jupyter_gpu_reclaim.plan.trace import SECOND

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One GPU and its share of its host. No speed of a real GPU has been measured by us: see the sources.

    The speeds are those that cuda-checkpoint reached on an RTX 4090 with driver 595 (gpunap, one source): about 4 GB/s
    out and 7 GB/s in, after 0.05 s. Copies through page-locked buffers that are kept reach 20 GB/s and more on PCIe 4.
    """

    gpu_bytes: int = 80 * GIB
    host_bytes: int = 256 * GIB  # assumed: for each GPU
    context_bytes: int = 500 << 20  # of each kernel that has used the GPU; no reclaim gives it back. Assumed
    offload_speed: float = 4e9  # bytes per second
    onload_speed: float = 7e9
    fixed_seconds: float = 0.05  # of each move
    # From a decision until the copy begins: the log, a message; of a reclaim the agent's last look, too.
    reclaim_word_seconds: float = 0.0
    restore_word_seconds: float = 0.0
    # From a cell's end until the loop can know that its work on the GPU is over. It counts where it is longer than a
    # notebook must be idle anyway, so with the product's own settings never: there it is about two beats of 5 s.
    idle_seen_seconds: float = 0.0

    def offload_takes(self, size: int) -> int:
        """Microseconds."""
        return round((self.fixed_seconds + size / self.offload_speed) * SECOND)

    def onload_takes(self, size: int) -> int:
        """Microseconds."""
        return round((self.fixed_seconds + size / self.onload_speed) * SECOND)
