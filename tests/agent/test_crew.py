"""The threads that share a copy: every item once, the first error stops all, and none is left behind."""

from __future__ import annotations

import threading

import pytest

from jupyter_gpu_reclaim.agent.torch_offload import crew


def test_every_item_is_done_once_by_several_threads() -> None:
    """All items are done, each once, and two that wait for each other meet: there really are two threads."""
    done: list[int] = []
    meeting = threading.Barrier(2, timeout=60)

    def work(item: int) -> None:
        if item < 2:
            meeting.wait()
        done.append(item)

    crew.each(work, list(range(100)), 2)
    assert sorted(done) == list(range(100))


def test_the_first_error_stops_everybody_and_is_raised() -> None:
    """After an error no further item is begun, and it is raised only once every thread has ended."""
    before = threading.active_count()
    begun: list[int] = []
    failed = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            failed.set()
            raise RuntimeError("item 0")
        failed.wait(60)

    with pytest.raises(RuntimeError, match="item 0"):
        crew.each(work, list(range(1000)), 2)
    assert len(begun) < 1000
    assert threading.active_count() == before


def test_nothing_to_do_starts_no_thread() -> None:
    """No item, no thread; one item is done by the caller itself."""
    who: list[threading.Thread] = []
    crew.each(lambda item: who.append(threading.current_thread()), [], 4)
    crew.each(lambda item: who.append(threading.current_thread()), [1], 4)
    assert who == [threading.current_thread()]
