"""The gate by itself: nobody inside while it is closed, nobody lost, whatever arrives when."""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from jupyter_gpu_reclaim.agent.gate import Gate, Passage, WaitEnded
from jupyter_gpu_reclaim.agent.protocol import RECLAIMED, RECLAIMING, RESIDENT

DEADLINE = 30.0


class Waiter:
    """Passes the gate on a thread of its own; `ended` is None after passing, or the error."""

    def __init__(self, gate: Gate, passage: Passage | None = None) -> None:
        self.gate = gate
        self.passage = passage or Passage("execute", counts_as_activity=True)
        self.ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._pass, daemon=True)
        self._thread.start()

    def _pass(self) -> None:
        try:
            self.gate.enter(self.passage)
        except WaitEnded as error:
            self.ended.put(error)
        else:
            self.ended.put(None)
        finally:
            self.gate.inside.discard(self.passage)

    def result(self) -> BaseException | None:
        """Waited for."""
        self._thread.join(DEADLINE)
        return self.ended.get(timeout=DEADLINE)


@pytest.fixture
def changes() -> queue.SimpleQueue[None]:
    """Gets an element whenever the gate says that something has changed."""
    return queue.SimpleQueue()


@pytest.fixture
def gate(changes: queue.SimpleQueue[None]) -> Iterator[Gate]:
    """An open gate; garbage collection is as before afterwards."""
    was_on = gc.isenabled()
    yield Gate(lambda: changes.put(None), run_on_main=lambda function: function())
    (gc.enable if was_on else gc.disable)()


def until(condition: Callable[[], bool], changes: queue.SimpleQueue[None]) -> None:
    """Wait for a condition that the gate announces."""
    while not condition():
        changes.get(timeout=DEADLINE)


def admit_all(gate: Gate, changes: queue.SimpleQueue[None], stop: threading.Event) -> None:
    """Hand out the running place whenever somebody waits for it."""
    while not stop.is_set():
        changes.get()
        gate.admit()


def test_user_code_inside_keeps_it_open(gate: Gate) -> None:
    """A gate with user code inside does not close, and closes once that has left."""
    passage = Passage("execute")
    gate.enter(passage)
    assert gate.running_since_at() == passage.since_at
    assert not gate.close()
    assert gate.phase == RESIDENT
    gate.inside.discard(passage)
    assert gate.running_since_at() is None
    assert gate.close()
    assert gate.phase == RECLAIMING


def test_waiters_pass_when_it_opens(gate: Gate, changes: queue.SimpleQueue[None]) -> None:
    """All who wait at the closed gate get in when it opens; each is counted as passed, and as running since then."""
    gate.close()
    waiters = [Waiter(gate) for _ in range(3)]
    until(lambda: len(gate.waiting) == 3, changes)
    gate.become(RECLAIMED)
    assert not gate.inside
    opened_at = time.time()
    gate.open()
    assert [waiter.result() for waiter in waiters] == [None, None, None]
    assert min(waiter.passage.since_at for waiter in waiters) >= opened_at
    assert (gate.passed, len(gate.waiting)) == (3, 0)


def test_ended_waits_raise_and_the_gate_stays_closed(gate: Gate, changes: queue.SimpleQueue[None]) -> None:
    """Ending the waits raises the given error in each of them; who comes later waits anew and gets in."""
    gate.close()
    early = Waiter(gate)
    until(lambda: len(gate.waiting) == 1, changes)
    gate.end_waits("GPURestoreTimeout", "no room came free")
    error = early.result()
    assert isinstance(error, WaitEnded)
    assert (error.ename, str(error)) == ("GPURestoreTimeout", "no room came free")
    assert (gate.phase, len(gate.waiting), gate.passed) == (RECLAIMING, 0, 0)
    late = Waiter(gate)
    until(lambda: len(gate.waiting) == 1, changes)
    gate.open()
    assert late.result() is None


def test_nobody_waits_in_an_ending_kernel(gate: Gate, changes: queue.SimpleQueue[None]) -> None:
    """Once the kernel is ending, those who wait and those who come later are turned away at once."""
    gate.close()
    early = Waiter(gate)
    until(lambda: len(gate.waiting) == 1, changes)
    gate.end_all_waits_for_good("ending")
    late = Waiter(gate)
    assert [str(early.result()), str(late.result())] == ["ending", "ending"]


def test_only_activity_moves_the_idle_clock(gate: Gate) -> None:
    """A passage that does not count as activity leaves last_active_at alone; one that does moves it to its end."""
    quiet, loud = Passage("complete_request"), Passage("execute", counts_as_activity=True)
    for passage in (quiet, loud):
        gate.enter(passage)
        gate.inside.discard(passage)
        if passage is quiet:
            gate.left(passage)
            assert gate.last_active_at is None
    entered_at = gate.last_active_at
    assert entered_at is not None
    gate.left(loud)
    assert gate.last_active_at >= entered_at


def test_an_interrupted_wait_leaves_nothing_behind(gate: Gate, changes: queue.SimpleQueue[None]) -> None:
    """SIGINT ends a wait on the main thread with KeyboardInterrupt; the gate forgets it."""
    gate.close()
    passage = Passage("execute")

    def interrupt_once_it_waits() -> None:
        until(lambda: bool(gate.waiting), changes)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_once_it_waits, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        gate.enter(passage)
    assert passage.waited
    assert (gate.inside, gate.waiting, gate.phase) == (set(), {}, RECLAIMING)


@pytest.mark.parametrize("places", [False, True])
def test_a_storm_of_interrupts_leaks_nothing(
    gate: Gate, changes: queue.SimpleQueue[None], places: bool
) -> None:
    """Signals every 50 µs, at any bytecode of passing, never leave a passage counted as inside or waiting."""
    stop = threading.Event()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if places:
        gate.place_needed = lambda: True
        threading.Thread(target=admit_all, args=(gate, changes, stop), daemon=True).start()
    interval = 2e-3 if places else 50e-6  # a passage that waits takes its time
    passed, interrupted = 0, 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        end = time.monotonic() + 1.0
        signal.setitimer(signal.ITIMER_REAL, interval, interval)
        while time.monotonic() < end:
            try:
                passage = Passage("execute", counts_as_activity=True)
                try:
                    gate.enter(passage)
                    passed += 1
                finally:
                    gate.inside.discard(passage)
                    gate.left(passage)
            except KeyboardInterrupt:
                interrupted += 1
    except KeyboardInterrupt:
        interrupted += 1
    finally:
        while True:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
                break
            except KeyboardInterrupt:
                continue
    stop.set()
    changes.put(None)
    assert passed > 0
    assert interrupted > 0
    assert (gate.inside, gate.waiting) == (set(), {})


def test_nobody_is_inside_while_bytes_move(gate: Gate) -> None:
    """Four threads pass as fast as they can while a fifth closes and opens: never is one inside between the two."""
    moving = threading.Event()
    stop = threading.Event()
    faults: list[str] = []
    counts = [0, 0, 0, 0]

    def user(number: int) -> None:
        while not stop.is_set():
            passage = Passage("execute")
            try:
                gate.enter(passage)
                if moving.is_set():
                    faults.append("inside while bytes moved")
                counts[number] += 1
            finally:
                gate.inside.discard(passage)

    users = [threading.Thread(target=user, args=(number,), daemon=True) for number in range(4)]
    for thread in users:
        thread.start()
    closed = 0
    deadline = time.monotonic() + DEADLINE
    while closed < 200 and time.monotonic() < deadline:
        if gate.close():
            closed += 1
            moving.set()
            gate.become(RECLAIMED)
            moving.clear()
            gate.open()
    stop.set()
    for thread in users:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "a passage was left waiting at an open gate"
    assert closed == 200
    assert min(counts) > 0
    assert faults == []


def test_garbage_is_collected_again_by_the_main_thread_only(gate: Gate) -> None:
    """Automatic collection is off while closed; at the open gate only the main thread enables it again."""
    gc.enable()
    held: list[Callable[[], None]] = []
    gate._run_on_main = held.append
    gate.close()
    assert not gc.isenabled()
    gate.resume_collection()
    assert not gc.isenabled(), "enabled although the gate is closed"
    gate.open()
    assert Waiter(gate).result() is None
    assert not gc.isenabled(), "enabled by a thread that is not the main one"
    passage = Passage("execute")
    gate.enter(passage)
    assert gc.isenabled()
    assert held == [gate.resume_collection]


def test_collection_that_was_off_stays_off(gate: Gate) -> None:
    """A user who has switched automatic collection off finds it off afterwards."""
    gc.disable()
    gate.close()
    gate.open()
    passage = Passage("execute")
    gate.enter(passage)
    assert not gc.isenabled()


def test_a_place_is_kept_while_anybody_is_inside(gate: Gate, changes: queue.SimpleQueue[None]) -> None:
    """Who comes while the kernel has its place goes in unasked; it ends when the last has left, not before."""
    gate.place_needed = lambda: True
    first = Waiter(gate)
    until(lambda: bool(gate.waiting_for_place()), changes)
    assert gate.lacks_place()
    gate.admit()
    assert first.result() is None
    second = Passage("comm_msg")
    gate.inside.add(first.passage)  # still at work
    gate.enter(second)
    gate.inside.discard(first.passage)
    gate.left(first.passage)
    assert gate.has_place()
    gate.inside.discard(second)
    gate.left(second)
    assert not gate.has_place()


def test_places_are_neither_lost_nor_kept(gate: Gate, changes: queue.SimpleQueue[None]) -> None:
    """Four threads pass as fast as they can while a fifth admits: nobody is left waiting, no place is left over."""
    gate.place_needed = lambda: True
    counts = [0, 0, 0, 0]
    stop = threading.Event()

    def user(number: int) -> None:
        while counts[number] < 300:
            passage = Passage("execute")
            try:
                gate.enter(passage)
                counts[number] += 1
            finally:
                gate.inside.discard(passage)
                gate.left(passage)

    arbiter = threading.Thread(target=admit_all, args=(gate, changes, stop), daemon=True)
    arbiter.start()
    users = [threading.Thread(target=user, args=(number,), daemon=True) for number in range(4)]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join(DEADLINE)
        assert not thread.is_alive(), f"a passage was left waiting: {counts}"
    stop.set()
    changes.put(None)
    arbiter.join(DEADLINE)
    assert (gate.has_place(), gate.inside, gate.waiting) == (False, set(), {})
