"""How an episode's bytes are laid out and cut: pure arithmetic, so checked for any sizes."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from jupyter_gpu_reclaim.agent.torch_offload.batches import BATCH_BYTES, aligned, plan

SIZES = st.one_of(st.integers(1, 5000), st.integers(1, 3 * BATCH_BYTES))


@given(st.lists(SIZES, max_size=60), st.lists(SIZES, max_size=20))
@example([BATCH_BYTES, 1, BATCH_BYTES + 1, 2 * BATCH_BYTES, 511, 512, 513], [100])
def test_every_byte_is_in_one_batch_and_has_one_place(first: list[int], second: list[int]) -> None:
    """The stretches cover each part of two devices exactly once and in order, aligned, without a gap or an overlap on
    the host, and no batch has parts of both."""
    sizes = first + second
    devices = [0] * len(first) + [1] * len(second)
    batches, host_bytes = plan(zip(devices, sizes, strict=True))
    covered = [0] * len(sizes)
    end = 0
    for batch in batches:
        assert batch.offset == end
        assert 0 < batch.nbytes <= BATCH_BYTES
        assert len({devices[stretch.part] for stretch in batch.stretches}) == 1
        for stretch in batch.stretches:
            assert covered[stretch.part] == stretch.start
            covered[stretch.part] += stretch.nbytes
            assert end % 512 == 0
            end += aligned(stretch.nbytes)
        assert end == batch.offset + batch.nbytes
    assert covered == sizes
    assert end == host_bytes


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=60))
def test_small_parts_share_a_batch(sizes: list[int]) -> None:
    """Parts that fit together in one batch are moved in one, so that little is paid per part."""
    assert len(plan((0, size) for size in sizes)[0]) == 1
