"""How an episode's bytes are laid out, cut and found again: pure arithmetic, so checked for any sizes and places."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from jupyter_gpu_reclaim.agent.torch_offload.batches import BATCH_BYTES, Layout, aligned
from jupyter_gpu_reclaim.agent.torch_offload.places import index_of, place

SIZES = st.one_of(st.integers(1, 5000), st.integers(1, 3 * BATCH_BYTES))
GAPS = st.one_of(st.just(0), st.integers(0, 4).map(lambda n: n * 512))


def _laid_out(sizes: list[int], gaps: list[int], index: int) -> list[int]:
    """Places on that device for parts of these sizes, each in whole blocks, with these gaps before them."""
    places, address = [], 1 << 40
    for nbytes, gap in zip(sizes, gaps, strict=False):
        places.append(place(index, address + gap))
        address += gap + aligned(nbytes)
    return places


def _joined(stretches: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """(place, offset, bytes), those that continue one another both there and here as one."""
    joined: list[tuple[int, int, int]] = []
    for where, offset, nbytes in stretches:
        if joined and (where, offset) == (joined[-1][0] + joined[-1][2], joined[-1][1] + joined[-1][2]):
            where, offset, nbytes = *joined[-1][:2], joined.pop()[2] + nbytes
        joined.append((where, offset, nbytes))
    return joined


@given(st.lists(SIZES, max_size=60), st.lists(SIZES, max_size=20), st.data(), st.booleans())
@example([BATCH_BYTES, 1, BATCH_BYTES + 1, 2 * BATCH_BYTES, 511, 512, 513], [100], None, True)
def test_every_byte_has_one_place_in_the_layout(
    first: list[int], second: list[int], data: st.DataObject | None, whole_blocks: bool
) -> None:
    """Wherever the parts of two devices lie, the pieces cover each of their bytes exactly once, at the same offset,
    and no byte that is not in one of their blocks; a batch is of one device, and tells its parts' own bytes."""
    sizes = first + second
    gaps = [0] * len(sizes) if data is None else [data.draw(GAPS) for _ in sizes]
    places = _laid_out(first, gaps, 0) + _laid_out(second, gaps[len(first) :], 1)
    counts = [(index, len(of_one)) for index, of_one in enumerate((first, second)) if of_one]
    layout = Layout(counts, sizes, whole_blocks)
    expected, covered, offset, end = [], [], 0, 0
    for where, nbytes in zip(places, sizes, strict=True):
        expected.append((where, offset, aligned(nbytes) if whole_blocks else nbytes))
        offset += aligned(nbytes)
    for batch, pieces in zip(layout.batches, layout.pieces(places), strict=True):
        assert batch.offset == end
        assert 0 < batch.nbytes <= BATCH_BYTES
        end += batch.nbytes
        assert {index_of(piece.place) for piece in pieces} == {batch.index}
        assert all(piece.offset + piece.nbytes <= batch.nbytes for piece in pieces)
        covered += [(piece.place, batch.offset + piece.offset, piece.nbytes) for piece in pieces]
    assert _joined(covered) == _joined(expected)
    assert end == layout.nbytes == offset
    assert sum(batch.payload_bytes for batch in layout.batches) == sum(sizes)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=60))
def test_neighbours_are_one_piece(sizes: list[int]) -> None:
    """Small parts that lie side by side on the device are moved in one piece, so that little is paid per part."""
    layout = Layout([(0, len(sizes))], sizes, whole_blocks=True)
    (pieces,) = layout.pieces(_laid_out(sizes, [0] * len(sizes), 0))
    assert len(pieces) == 1
