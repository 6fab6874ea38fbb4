"""The witness without which the engine group gives no figure."""

from __future__ import annotations

import pytest
import torch

from jupyter_gpu_reclaim.bench import Refused
from jupyter_gpu_reclaim.bench.engine.witness import Proof, Witness


def test_equal_tensors_are_proof() -> None:
    """Tensors that were changed only by the witness itself give a proof, they are as at first, and it gives figures."""
    tensors = [torch.arange(5, dtype=torch.int32), torch.full((3, 3), -1.5)]
    before = [tensor.clone() for tensor in tensors]
    witness = Witness(lambda: tensors)
    witness.stir()
    witness.stir()
    assert not torch.equal(tensors[0], before[0])
    figure = witness.proof().figure("name", "×", [0.5], at_least=0.4)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert (figure.group, figure.holds, figure.at_least) == ("engine", True, True)


def test_one_wrong_bit_is_refused() -> None:
    """One bit that differs in one tensor is enough for no figure at all."""
    tensors = [torch.zeros(1000, dtype=torch.int32) for _ in range(3)]
    witness = Witness(lambda: tensors)
    tensors[1][999] ^= 1 << 30
    with pytest.raises(Refused, match="of 3 tensors 0 are lost and 1 are not"):
        witness.proof()


def test_bytes_of_the_move_before_are_refused() -> None:
    """A way back that brings what an earlier way out had left in a buffer is found out."""
    tensors = [torch.zeros(8, dtype=torch.int32)]
    witness = Witness(lambda: tensors)
    left_over = tensors[0].clone()
    witness.stir()
    tensors[0].copy_(left_over)
    with pytest.raises(Refused):
        witness.proof()


def test_a_lost_tensor_is_refused() -> None:
    """Fewer tensors than before are never taken for equal."""
    tensors = [torch.zeros(8, dtype=torch.int32), torch.zeros(8, dtype=torch.int32)]
    witness = Witness(lambda: tensors)
    tensors.pop()
    with pytest.raises(Refused, match="of 2 tensors 1 are lost"):
        witness.proof()


def test_no_proof_without_a_witness() -> None:
    """A proof cannot be made by hand."""
    with pytest.raises(AssertionError):
        Proof(None)  # type: ignore[arg-type]
