"""A call that may hang runs in a thread of its own: its answer, its error, its end."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta

import pytest

from jupyter_gpu_reclaim.server import patient_thread
from jupyter_gpu_reclaim.server.patient_thread import PatientThread, StillBusy


async def test_a_thread_hands_on_what_its_call_raises() -> None:
    """An exception in the thread is the caller's, and the next call starts afresh."""
    answers = iter([ZeroDivisionError("once"), 5])

    def call() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    thread = PatientThread(call, timedelta(seconds=20), "test")
    with pytest.raises(ZeroDivisionError):
        await thread.result()
    assert await thread.result() == 5


async def test_a_thread_is_kept_for_a_while_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that follow soon run in the same thread; left alone it ends, and the next call has another."""
    monkeypatch.setattr(patient_thread, "KEPT_SECONDS", 0.2)
    thread = PatientThread(threading.current_thread, timedelta(seconds=20), "test")
    first = await thread.result()
    assert await thread.result() is first
    await asyncio.to_thread(first.join, 20)
    assert not first.is_alive()
    assert await thread.result() is not first


async def test_a_slow_answer_is_taken_when_it_comes() -> None:
    """A call that came too late is not run again: its answer is the next caller's."""
    come = threading.Event()
    thread = PatientThread(lambda: come.wait(20), timedelta(milliseconds=10), "test")
    with pytest.raises(StillBusy) as busy:
        await thread.result()
    assert busy.value.since > timedelta(0)
    come.set()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            assert await thread.result() is True
            break
        except StillBusy:
            await asyncio.sleep(0.01)
    else:
        raise AssertionError("the answer never came")
