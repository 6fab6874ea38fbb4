"""How an episode's bytes are laid out and cut: pure arithmetic, so checked for any sizes."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from jupyter_gpu_reclaim.agent.torch_offload.batches import BATCH_BYTES, aligned, plan

SIZES = st.lists(st.one_of(st.integers(1, 5000), st.integers(1, 3 * BATCH_BYTES)), max_size=60)


@given(SIZES)
@example([BATCH_BYTES, 1, BATCH_BYTES + 1, 2 * BATCH_BYTES, 511, 512, 513])
def test_every_byte_is_in_one_batch_and_has_one_place(sizes: list[int]) -> None:
    """The stretches cover each part exactly once and in order, aligned, without a gap or an overlap on the host."""
    batches, host_bytes = plan(sizes)
    covered = [0] * len(sizes)
    end = 0
    for batch in batches:
        assert batch.offset == end
        assert 0 < batch.nbytes <= BATCH_BYTES
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
    assert len(plan(sizes)[0]) == 1
