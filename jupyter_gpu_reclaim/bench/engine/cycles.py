"""A whole training's way out and back, against what memory can do and against the ways people have without us."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.engine.copies import words
from jupyter_gpu_reclaim.bench.engine.memcpy import Memcpy
from jupyter_gpu_reclaim.bench.engine.rig import Rig
from jupyter_gpu_reclaim.bench.engine.training import Training
from jupyter_gpu_reclaim.bench.engine.witness import Witness

SHARED_MEMORY = Path("/dev/shm")


def whole(rig: Rig, layers: int, width: int, rounds: int, verify: bool = False) -> Iterator[Figure]:
    """From the order until NVML shows the memory free, and from the order until every byte is back, ÷ memcpy.

    What it is to reach is meant without checksums.
    """
    training = Training(rig.device, layers, width)
    witness = Witness(training.tensors)
    nbytes = training.nbytes
    memcpy = Memcpy(nbytes)
    rig.cycle()
    out, back = [], []
    for _ in range(rounds):
        witness.stir()
        target = rig.used_bytes() - nbytes
        plain, began = memcpy.seconds(nbytes), time.perf_counter()
        rig.offload(verify)
        rig.wait_until_used(target)
        out.append((time.perf_counter() - began) / plain)
        back.append(rig.onload().seconds / memcpy.seconds(nbytes))
    proof = witness.proof()
    what = f"{nbytes / 1e9:.2g} GB in {4 * layers} tensors" + (", with checksums" if verify else "")
    most_out, most_back = (None, None) if verify else (1.2, 1.4)
    yield proof.figure(f"{what}: order to NVML free ÷ memcpy", "×", out, at_most=most_out)
    yield proof.figure(f"{what}: order to all back ÷ memcpy", "×", back, at_most=most_back)


def against_by_hand(rig: Rig, layers: int, width: int, rounds: int) -> Iterator[Figure]:
    """Out and back, ours ÷ `.cpu()` and `.to()`, in turn; first with fresh host memory for both, then used."""
    training = Training(rig.device, layers, width)
    witness = Witness(training.tensors)
    first, ahead, later = [], [], []

    def by_hand() -> None:
        training.to("cpu")
        rig.module.empty_cache()
        training.to(rig.device)

    for _ in range(rounds):
        witness.stir()
        rig.fresh_host_memory()
        ours = rig.cycle()
        witness.stir()
        rig.fresh_host_memory()
        first.append(ours / rig.timed(by_hand))
        witness.stir()
        rig.fresh_host_memory()
        rig.mechanism.prepare()
        ours = rig.cycle()
        witness.stir()
        rig.fresh_host_memory()
        ahead.append(ours / rig.timed(by_hand))
    rig.cycle()
    for _ in range(rounds):
        witness.stir()
        ours = rig.cycle()
        witness.stir()
        later.append(ours / rig.timed(by_hand))
    proof = witness.proof()
    what = f"{training.nbytes / 1e9:.2g} GB: time ÷ module.cpu()/.to() and optimizer"
    yield proof.figure(f"{what}, first episode", "×", first, at_most=1)
    yield proof.figure(f"{what}, first, host memory taken ahead", "×", ahead, at_most=1)
    yield proof.figure(f"{what}, second on", "×", later, at_most=0.5)


def against_file(rig: Rig, layers: int, width: int, rounds: int) -> Iterator[Figure]:
    """Out and back, ours ÷ torch.save and torch.load in /dev/shm, in turn."""
    training = Training(rig.device, layers, width)
    witness = Witness(training.tensors)
    rig.cycle()
    samples = []
    for _ in range(rounds):
        witness.stir()
        ours = rig.cycle()
        witness.stir()
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
            path = Path(folder) / "training.pt"

            def by_file(path: Path = path) -> None:
                training.save(path)
                rig.module.empty_cache()
                training.load(path)

            samples.append(ours / rig.timed(by_file))
    proof = witness.proof()
    yield proof.figure(
        f"{training.nbytes / 1e9:.2g} GB: time ÷ torch.save and load in {SHARED_MEMORY}, second on",
        "×", samples, at_most=0.1,
    )  # fmt: skip


def small(rig: Rig, count: int, nbytes: int, rounds: int) -> Iterator[Figure]:
    """Many small tensors out and back, ours ÷ `module.cpu()` and `.to()`, in turn."""
    module = torch.nn.Module()
    for number, tensor in enumerate(words(rig, count, nbytes)):
        module.register_buffer(f"tensor_{number}", tensor)
    del tensor
    witness = Witness(lambda: list(module.buffers()))

    def by_hand() -> None:
        module.cpu()
        rig.module.empty_cache()
        module.to(rig.device)

    rig.cycle()
    rig.timed(by_hand)
    samples = []
    for _ in range(rounds):
        witness.stir()
        ours = rig.cycle()
        witness.stir()
        samples.append(ours / rig.timed(by_hand))
    proof = witness.proof()
    what = f"{count * nbytes / 1e6:.3g} MB in {count:,} tensors"
    yield proof.figure(f"{what}: time ÷ module.cpu()/.to()", "×", samples, at_most=0.4)
