"""When the host memory of a reclaim is given back: not while it holds the bytes, and not before its time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jupyter_gpu_reclaim.agent.gate import Gate
from jupyter_gpu_reclaim.agent.moves import Moves
from jupyter_gpu_reclaim.agent.protocol import RECLAIMED


class KeptBuffer:
    """A mechanism that has moved 8 bytes once and keeps the buffer."""

    host_bytes = 8

    def release_host_buffer(self) -> None:
        """Give it back."""
        self.host_bytes = 0


@pytest.fixture
def moves() -> SimpleNamespace:
    """Moves of a kernel that is on the GPU, with the jobs that they hand to the worker."""
    jobs: list = []
    gate = Gate(lambda: None, lambda function: None)
    made = Moves(gate, None, jobs.append, jobs.append, jobs.append, jobs.append, KeptBuffer)
    made.find_mechanism()
    return SimpleNamespace(moves=made, gate=gate, jobs=jobs)


def test_a_buffer_is_kept_for_the_time_it_was_told(moves: SimpleNamespace) -> None:
    """Within `host_buffer_seconds` of the last move the buffer stays; the next reclaim may need it."""
    moves.moves.host_buffer_seconds = 3600.0
    moves.moves.tidy()
    assert (moves.jobs, moves.moves.mechanism.host_bytes) == ([], 8)


def test_a_spare_buffer_goes_back_by_the_worker(moves: SimpleNamespace) -> None:
    """After that it is given back, on the worker's thread, where no move can be under way."""
    moves.moves.host_buffer_seconds = 0.0
    moves.moves.tidy()
    (job,) = moves.jobs
    assert moves.moves.mechanism.host_bytes == 8
    job()
    assert moves.moves.mechanism.host_bytes == 0


def test_a_buffer_that_holds_the_bytes_is_never_given_back(moves: SimpleNamespace) -> None:
    """While the kernel is reclaimed its bytes are in the buffer: it stays, also when a job for it was on its way."""
    moves.moves.host_buffer_seconds = 0.0
    moves.moves.tidy()
    moves.gate.become(RECLAIMED)
    moves.moves.tidy()
    (job,) = moves.jobs
    job()
    assert moves.moves.mechanism.host_bytes == 8
