"""What a reclaim costs beside the copy: looking through the process, deciding, letting go."""

from __future__ import annotations

import gc
from collections.abc import Iterator

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.engine.copies import words
from jupyter_gpu_reclaim.bench.engine.rig import Rig
from jupyter_gpu_reclaim.bench.engine.witness import Witness


def reclaim(rig: Rig, count: int, nbytes: int, rounds: int, at_most: float) -> Iterator[Figure]:
    """A whole offload by a stopwatch from outside, less the engine's copy lap."""
    tensors = words(rig, count, nbytes)
    witness = Witness(lambda: tensors)
    rig.cycle()
    samples = []
    for _ in range(rounds):
        witness.stir()
        way = rig.offload()
        samples.append(1e3 * (way.seconds - way.copy_seconds))
        rig.onload()
    proof = witness.proof()
    yield proof.figure(f"whole reclaim less the copy, {count:,} tensors", "ms", samples, at_most=at_most)


def scan(rig: Rig, gc_objects: int, rounds: int) -> Iterator[Figure]:
    """The lap that finds every tensor among so many objects of Python's garbage collector."""
    tensors = words(rig, 100, 4096)
    witness = Witness(lambda: tensors)
    there = len(gc.get_objects())
    others = [[number] for number in range(gc_objects - there)]
    samples = []
    for _ in range(rounds):
        witness.stir()
        samples.append(1e3 * rig.offload().laps["find"])
        rig.onload()
    proof = witness.proof()
    count = there + len(others)
    yield proof.figure(f"scan with {count / 1e6:.2g} million gc objects", "ms", samples, at_most=45)
