"""The gate that all user code passes: open while the GPU bytes are in place, closed from the first byte moved out
until the last one is back.

Passing must cost nothing and must survive a KeyboardInterrupt at any bytecode, because most of it happens on the
kernel's main thread. Hence no lock on the way in: a passage first writes itself into `inside` and then reads the
phase, while `close()` first writes the phase and then reads `inside`; one of the two always sees the other. What must
not be torn apart by an interrupt is a single call into C (`set.discard`, `dict.pop`, `SimpleQueue.put`). A running
place is kept nowhere but in the passages that have it, so that it ends with the last of them, whatever happens.
A `threading.Condition` was tried: an interrupt inside its `__enter__` leaves its lock taken for ever.
"""

import gc
import queue
import threading
import time

from .protocol import RECLAIMING, RESIDENT

# A signal that arrives between Python's last look and the blocking call, or on another thread, does not end that call
# (seen: 1 interrupt in 10 lost for ever). So the wait is cut into slices, and Python looks after each.
WAIT_SLICE_SECONDS = 0.05


class WaitEnded(Exception):
    """The wait at the closed gate ended without passing: nothing ran, nothing was lost."""

    def __init__(self, ename, sentence):
        super().__init__(sentence)
        self.ename = ename


class Passage:
    """One request that runs user code, from the moment it reaches the gate until it has ended."""

    __slots__ = (
        "counts_as_activity",
        "has_place",
        "needs_place",
        "since_at",
        "trigger",
        "verdicts",
        "waited",
    )

    def __init__(self, trigger, counts_as_activity=False):
        self.trigger = trigger
        self.counts_as_activity = counts_as_activity
        self.since_at = time.time()  # it reached the gate; later, it was let in
        self.waited = False
        self.needs_place = self.has_place = False
        self.verdicts = None  # a SimpleQueue once it waits: None for "look again", or the WaitEnded to raise


class Gate:
    """Counts user code inside and holds it back while closed. Opened and closed by one thread at a time (the mover's).

    `on_change` is called, on whatever thread, when the phase or the number of those who wait has changed; it must be a
    single call into C. `run_on_main(function)` runs a function on the kernel's main thread as soon as that is free.
    """

    def __init__(self, on_change, run_on_main):
        self.phase = RESIDENT
        self.phase_since_at = time.time()
        self.inside = set()
        self.waiting = {}  # Passage → True, in order of arrival
        self.passed = 0  # changes whenever user code got in
        self.rouse = (
            None  # a single C call that tells the reporter, at rest, that user code got in; None: it is awake
        )
        self.last_active_at = None
        self.place_needed = None  # with running places: a function that says whether user code needs one now
        self._on_change = on_change
        self._run_on_main = run_on_main
        self._kernel_is_ending = None
        self._collection_held = False

    # ---- for user code

    def enter(self, passage):
        """Let the passage in, waiting on this thread while the gate is closed or the kernel lacks a place it needs.

        Raises WaitEnded, KeyboardInterrupt. Whatever happens, the caller ends with `gate.inside.discard(passage)` in a
        `finally` and then `left()`.
        """
        place_needed = self.place_needed
        if place_needed is not None:
            passage.needs_place = place_needed()
        if not self.try_enter(passage):
            self._wait(passage)

    def try_enter(self, passage):
        """Let the passage in if the gate is open (what does not come by `enter()` needs no place); never waits."""
        self.inside.add(passage)
        if self.phase != RESIDENT or (passage.needs_place and not self._may_run(passage)):
            self.inside.discard(passage)
            return False
        if self._collection_held:
            self.resume_collection()
        self.passed += 1
        if self.rouse is not None:
            self.rouse()
            self.rouse = None
        if passage.counts_as_activity:
            self.last_active_at = time.time()
        return True

    def left(self, passage):
        """Move the idle clock: user code that counts as activity has ended, provided that it had got in."""
        if passage.counts_as_activity:
            self.last_active_at = time.time()
        if passage.has_place:
            self._on_change()

    def _wait(self, passage):
        passage.waited = True
        passage.verdicts = queue.SimpleQueue()
        try:
            self.waiting[passage] = True
            while not self.try_enter(passage):
                if self._kernel_is_ending:
                    raise WaitEnded("GPURestoreInterrupted", self._kernel_is_ending)
                self._on_change()
                verdict = _next_verdict(passage.verdicts)
                if verdict is not None:
                    raise verdict
            passage.since_at = time.time()  # what it has waited it has not run
        finally:
            self.waiting.pop(passage, None)
            self._on_change()

    # ---- running places

    def has_place(self):
        """Whether any of the kernel's user code has a running place; what comes to it runs in the same."""
        # Those that wait first: who goes in meanwhile is met twice, not missed.
        return any(passage.has_place for passage in (*list(self.waiting), *list(self.inside)))

    def lacks_place(self):
        """Whether user code would have to wait at the open gate."""
        place_needed = self.place_needed
        return place_needed is not None and not self.has_place() and place_needed()

    def waiting_for_place(self):
        """The passages that wait at the open gate."""
        if self.phase != RESIDENT:
            return []
        return [passage for passage in list(self.waiting) if passage.needs_place and not passage.has_place]

    def admit(self):
        """What waits for a running place has one now; where nobody waits there is no place to keep."""
        if in_line := self.waiting_for_place():
            self._give_place_to(in_line)
            self._on_change()
            self._look_again()

    def go_without_place(self):
        """Nobody hands out places any more: everybody goes ahead."""
        for passage in list(self.waiting):
            passage.needs_place = False
        self._look_again()

    @staticmethod
    def _give_place_to(passages):
        now = time.time()
        for passage in passages:
            passage.since_at = now  # it runs from now on, or as soon as its thread has woken
            passage.has_place = True

    def _may_run(self, passage):
        if not passage.has_place:
            passage.has_place = self.has_place()
        return passage.has_place

    def _look_again(self):
        for passage in list(self.waiting):
            passage.verdicts.put(None)

    # ---- for the agent's own threads

    def close(self):
        """Close the gate and hold automatic garbage collection; False, and open as before, when user code is at work.

        Cyclic garbage may have user `__del__`s that read tensors, and collection runs in whichever thread allocates,
        ipykernel's own included: no back door may stay open beside the gate.
        """
        self.become(RECLAIMING)
        if self.inside or self.waiting:
            self.open()
            return False
        if gc.isenabled():
            gc.disable()
            self._collection_held = True
        return True

    def become(self, phase):
        """Enter a phase in which the gate is closed."""
        self.phase = phase
        self.phase_since_at = time.time()
        self._on_change()

    def open(self, with_place=False):
        """Let everybody in, `with_place` also who needs a place; have garbage collected again, by the main thread."""
        if with_place and self.place_needed is not None:
            self._give_place_to(list(self.waiting))
        self.become(RESIDENT)
        self._look_again()
        if self._collection_held:
            self._run_on_main(self.resume_collection)

    def resume_collection(self):
        """Switch automatic collection on again if `close()` switched it off.

        Only on the main thread and with the gate open: a collection may start at once, and user `__del__`s expect
        to run there. Anywhere else this does nothing.
        """
        on_main = threading.current_thread() is threading.main_thread()
        if on_main and self._collection_held and self.phase == RESIDENT:
            self._collection_held = False
            gc.enable()

    def end_waits(self, ename, sentence):
        """End every wait with this error. What arrives later waits anew."""
        for passage in list(self.waiting):
            passage.verdicts.put(WaitEnded(ename, sentence))

    def end_all_waits_for_good(self, sentence):
        """The kernel is ending: nobody waits any more, now or later."""
        self._kernel_is_ending = sentence
        self._look_again()

    @property
    def is_ending(self):
        """Whether the kernel is shutting down."""
        return self._kernel_is_ending is not None

    def open_in_child(self):
        """In a forked child there is nothing to wait for and nobody to open the gate."""
        self.phase, self.place_needed = RESIDENT, None
        self.inside, self.waiting = set(), {}

    def running_since_at(self):
        """Since when user code is inside (the earliest of it), as Unix seconds; None when none is.

        What has its place and is about to go in counts: between waiting and running nobody is neither.
        """
        about_to = [passage for passage in list(self.waiting) if passage.has_place]
        return min((passage.since_at for passage in (*about_to, *list(self.inside))), default=None)


def _next_verdict(verdicts):
    while True:
        try:
            return verdicts.get(timeout=WAIT_SLICE_SECONDS)
        except queue.Empty:
            continue
