"""The quick look through the heap: types of tensors that nobody uses are passed over, and only those."""

from __future__ import annotations

import torch

from jupyter_gpu_reclaim.agent.torch_offload import find


class Kind(torch.Tensor):
    """A user's type of tensors."""


def _sees(tensor: torch.Tensor, thorough: bool) -> bool:
    with find.no_user_code():
        found = find.find("cpu", (), thorough)
    return any(seen is tensor for seen in found.tensors)


def test_a_type_is_looked_for_as_soon_as_it_has_an_instance() -> None:
    """A type without instances at one look is passed over at the next only while it still has none."""
    assert _sees(torch.ones(1), thorough=False)
    for _ in range(3):
        tensor = torch.ones(3).as_subclass(Kind)
        assert _sees(tensor, thorough=False)
        assert _sees(tensor, thorough=False)
        del tensor
        other = torch.ones(3)
        assert _sees(other, thorough=False)
        assert Kind in find._references_of_types


def test_a_thorough_look_passes_over_nothing() -> None:
    """An instance whose type looks unused (here: another reference to the type went as it came) is found thoroughly."""
    more = [Kind]
    assert _sees(torch.ones(1), thorough=False)
    more.clear()
    tensor = torch.ones(3).as_subclass(Kind)
    assert not _sees(tensor, thorough=False)
    assert _sees(tensor, thorough=True)
