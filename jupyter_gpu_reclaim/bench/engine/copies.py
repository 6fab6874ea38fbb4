"""How near the engine's copies come to the memory's own speed, from few large tensors to many small ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.bench.engine.memcpy import Memcpy
from jupyter_gpu_reclaim.bench.engine.rig import Rig
from jupyter_gpu_reclaim.bench.engine.witness import Witness


def words(rig: Rig, count: int, nbytes: int) -> list[torch.Tensor]:
    """So many int32 tensors of so many bytes each, all with different contents."""
    tensors = [torch.empty(nbytes // 4, dtype=torch.int32, device=rig.device) for _ in range(count)]
    for number, tensor in enumerate(tensors):
        torch.arange(number * 977, number * 977 + tensor.numel(), out=tensor)
    return tensors


def figures(
    rig: Rig, count: int, nbytes: int, rounds: int, out_at_least: float, back_at_least: float
) -> Iterator[Figure]:
    """Bandwidths of the copy out and of the copy back, each divided by memcpy's just before it."""
    tensors = words(rig, count, nbytes)
    witness = Witness(lambda: tensors)
    memcpy = Memcpy(count * nbytes)
    rig.cycle()  # from here on the host buffer is a used one
    out, back, rates = [], [], []
    for _ in range(rounds):
        witness.stir()
        plain = memcpy.seconds(count * nbytes)
        rates.append(count * nbytes / plain / 1e9)
        out.append(plain / rig.offload().copy_seconds)
        back.append(memcpy.seconds(count * nbytes) / rig.onload().copy_seconds)
    proof = witness.proof()
    what = f"{count:,} tensors of {nbytes / 1e6:g} MB"
    yield proof.figure(f"offload copy ÷ memcpy, {what}", "×", out, at_least=out_at_least)
    yield proof.figure(f"restore copy ÷ memcpy, {what}", "×", back, at_least=back_at_least)
    yield proof.figure(f"the memcpy beside them, {memcpy.threads} threads", "GB/s", rates)


def verified(rig: Rig, count: int, nbytes: int, rounds: int) -> Iterator[Figure]:
    """The time of a copy with its checksums ÷ the time of the copy alone, in turn. 1 would be: they cost nothing."""
    tensors = words(rig, count, nbytes)
    witness = Witness(lambda: tensors)
    rig.cycle()
    out, back = [], []
    for _ in range(rounds):
        witness.stir()
        plain_out, plain_back = rig.offload().copy_seconds, rig.onload().copy_seconds
        witness.stir()
        out.append(rig.offload(verify=True).copy_seconds / plain_out)
        back.append(rig.onload().copy_seconds / plain_back)
    proof = witness.proof()
    what = f"{count:,} tensors of {nbytes / 1e6:g} MB"
    yield proof.figure(f"offload copy with checksums ÷ without, {what}", "×", out)
    yield proof.figure(f"restore copy with checksums ÷ without, {what}", "×", back)
