"""No figure without proof: whoever measures a way of moving tensors shows afterwards that they came back bit for bit.

A `Witness` takes a digest of every tensor before the first move. Between moves the tensors are changed (`stir`), so
that bytes left over in some buffer from the move before cannot pass for bytes that were moved. `proof` undoes all
changes and compares. Figures of the engine group are made by the `Proof` alone.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from jupyter_gpu_reclaim.bench import Figure, Refused

GROUP = "engine"


class Witness:
    """`tensors()` lists them anew each time, in the same order; their items are of 4 bytes."""

    def __init__(self, tensors: Callable[[], Sequence[torch.Tensor]]):
        self._tensors = tensors
        self._stirred = 0
        self._before = digests(tensors())

    def stir(self) -> None:
        """Changes every item of every tensor."""
        self._stirred += 1
        self._add(1)

    def proof(self) -> Proof:
        """That every tensor has the bits it had, changed as often as they were. Raises `Refused`."""
        self._add(-self._stirred)
        self._stirred = 0
        after = digests(self._tensors())
        lost = len(self._before) - len(after)
        wrong = sum(a != b for a, b in zip(self._before, after, strict=False))
        if lost or wrong:
            raise Refused(f"of {len(self._before)} tensors {lost} are lost and {wrong} are not as they were")
        return Proof(self)

    def _add(self, number: int) -> None:
        with torch.no_grad():
            for tensor in self._tensors():
                tensor.detach().view(torch.int32).add_(number)


class Proof:
    """That the data were equal afterwards; the only way to a figure."""

    def __init__(self, witness: Witness):
        assert isinstance(witness, Witness)

    def figure(
        self,
        name: str,
        unit: str,
        samples: Sequence[float],
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> Figure:
        """The figure of these samples."""
        return Figure.of(GROUP, name, unit, samples, target=at_most, at_least=at_least)


def digests(tensors: Sequence[torch.Tensor]) -> list[bytes]:
    """SHA-1 of each tensor's bytes (hashing releases the GIL, so two threads are twice as fast)."""
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(_digest, tensors))


def _digest(tensor: torch.Tensor) -> bytes:
    on_host = tensor.detach().cpu().contiguous()
    nbytes = on_host.numel() * on_host.element_size()
    return hashlib.sha1((ctypes.c_char * nbytes).from_address(on_host.data_ptr())).digest()
