"""The most host memory that an episode takes beside what the process had, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.engine.rig import Rig
from jupyter_gpu_reclaim.bench.engine.training import Training
from jupyter_gpu_reclaim.bench.engine.witness import Witness


def figures(rig: Rig, layers: int, width: int, rounds: int) -> Iterator[Figure]:
    """Peak of the resident set over a whole episode with a fresh host buffer, less what was resident before it.

    On the simulated device the device's memory is part of this process's resident set. It is there, in full, before
    the episode and until every byte is copied, and comes back to the same size: so it cancels out.
    """
    training = Training(rig.device, layers, width)
    witness = Witness(training.tensors)
    samples = []
    for _ in range(rounds):
        witness.stir()
        rig.fresh_host_memory()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident_bytes("VmRSS")
        rig.cycle()
        samples.append((resident_bytes("VmHWM") - before) / training.nbytes)
    proof = witness.proof()
    yield proof.figure("peak extra host memory ÷ footprint", "×", samples, at_most=1.05)


def resident_bytes(name: str) -> int:
    """VmRSS, what is resident now, or VmHWM, the most there was."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(name + ":"))
