"""The checksum notices what goes wrong with copies, and depends on the bytes alone, at any length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_gpu_reclaim.agent.torch_offload.checksum import ROW_BYTES, of_views

LENGTHS = st.one_of(
    st.integers(1, 2000), st.integers(1_000_000, 1_100_000), st.sampled_from([512, 65536, 1 << 20])
)


def of_bytes(bytes_: torch.Tensor) -> int:
    """The checksum of one piece."""
    return of_views([bytes_])


few = settings(max_examples=40, deadline=None)


def _random(nbytes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def _image(views: list[torch.Tensor]) -> torch.Tensor:
    """The views one after the other, each filled up with zeros to whole rows."""
    padded = [torch.nn.functional.pad(view, (0, -len(view) % ROW_BYTES)) for view in views]
    return torch.cat(padded)


@few
@given(st.lists(LENGTHS, min_size=1, max_size=20), st.integers(0, 1000))
def test_views_have_the_sum_of_their_image(lengths: list[int], seed: int) -> None:
    """Wherever the bytes lie, in one piece or many, read in place or packed, the sum is that of their layout."""
    views = [_random(length, seed + i) for i, length in enumerate(lengths)]
    assert of_views(views) == of_bytes(_image(views))


@few
@given(LENGTHS, st.data())
def test_every_flipped_bit_is_noticed(nbytes: int, data: st.DataObject) -> None:
    """Any bit of any byte, those of a tail shorter than a word included."""
    bytes_ = _random(nbytes)
    before = of_bytes(bytes_)
    at = data.draw(st.one_of(st.integers(0, nbytes - 1), st.integers(max(0, nbytes - 8), nbytes - 1)))
    bytes_[at] ^= 1 << data.draw(st.integers(0, 7))
    assert of_bytes(bytes_) != before


@few
@given(st.integers(2, 300), st.data())
def test_rows_in_other_places_are_noticed(rows: int, data: st.DataObject) -> None:
    """Two rows exchanged, a row written over another, and a range that is zeroed: each gives another sum."""
    bytes_ = _random(rows * ROW_BYTES)
    table = bytes_.view(rows, ROW_BYTES)
    first = data.draw(st.integers(0, rows - 1))
    second = data.draw(st.integers(0, rows - 1).filter(lambda row: row != first))
    before = of_bytes(bytes_)
    exchanged, overwritten, zeroed = bytes_.clone(), bytes_.clone(), bytes_.clone()
    exchanged.view_as(table)[[first, second]] = table[[second, first]]
    overwritten.view_as(table)[first] = table[second]
    zeroed.view_as(table)[min(first, second) : max(first, second)] = 0
    assert before not in (of_bytes(exchanged), of_bytes(overwritten), of_bytes(zeroed))


@pytest.mark.parametrize("byte", range(8))
def test_a_lone_bit_in_another_row_is_noticed(byte: int) -> None:
    """Zeros with one high bit, as in half-empty tensors: the sum says in which of two hundred rows it stands."""
    sums = set()
    for row in range(200):
        bytes_ = torch.zeros(200 * ROW_BYTES, dtype=torch.uint8)
        bytes_[row * ROW_BYTES + byte] = 0x80
        sums.add(of_bytes(bytes_))
    assert len(sums) == 200


def test_nothing_has_a_sum() -> None:
    """No views, and views without bytes, sum to 0."""
    assert of_views([]) == of_bytes(torch.empty(0, dtype=torch.uint8)) == 0
