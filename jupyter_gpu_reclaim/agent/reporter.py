"""Tells the server how this kernel is: on a slow beat, and at once when somebody waits or the phase changes.

What is sent follows from the state alone, never from the events that led to it, so a lost wake-up only costs a beat.
"""

import functools
import queue
import threading
import time

from .protocol import RECLAIMED, RECLAIMING, RESIDENT, RESTORING
from .room import bytes_by_gpu

ORPHAN_BEAT_SECONDS = 0.2
PING_SECONDS = 1.0
SHORTEST_PATIENCE_SECONDS = 2.0  # with a server that is there but silent
# With the default beat of 5 s, a kernel that does nothing is looked at every five minutes.
LONGEST_REST_BEATS = 60
MOST_NOTES = 20
URGENT = ("phase", "waiting", "room_wanted", "place_wanted_at")


class Notes:
    """What the agent has to say, oldest first. Bounded; the same sentence twice in a row is kept once."""

    def __init__(self):
        self._sentences = []

    def add(self, sentence):
        """Keep a sentence until twenty newer ones have come."""
        if self._sentences[-1:] != [sentence]:
            self._sentences = self._sentences[1 - MOST_NOTES :]
            self._sentences.append(sentence)

    def listed(self):
        """A copy."""
        return list(self._sentences)


class Reporter:
    """Builds the status and sends what is new in it.

    Anything put into the queue `wakeups` makes it look at once. `on_orphaned(seconds)` is called, beat after beat,
    while user code waits and the server has been gone for `orphan_seconds` or longer.
    """

    def __init__(self, gate, moves, room, watch, link, notes, wakeups, on_orphaned):
        self._gate = gate
        self._moves = moves
        self._room = room
        self._watch = watch
        self._link = link
        self._notes = notes
        self._on_orphaned = on_orphaned
        self._wakeups = wakeups
        self._sending = threading.Lock()
        self._sent_status = None
        self._sent_waiting = []  # the passages whose wait the server knows of
        self._sent_room = []  # the wishes for room that it knows of
        self._gpus, self._host_bytes = {}, 0
        self._counters, self._counted_at_pass, self._allocator_active = None, None, None
        self.sample_seconds, self.orphan_seconds = 5.0, 5.0  # until the server has said its own
        self._rest_beats = 1
        self._looked_at_pass = None
        self._looked_at = self._due = time.monotonic()

    def run(self):
        """The beat. Never returns; runs on a thread of its own."""
        while True:
            try:
                self._wakeups.get(timeout=self._pause_seconds())
            except queue.Empty:
                pass
            try:
                if time.monotonic() >= self.next_beat():
                    self.beat()
                else:
                    if self._is_end_of_turn():
                        self.measure()
                    self.push(only_if_urgent=True)
                self._look_after_orphans()
            except Exception as error:  # whatever it is, the next beat must come
                self._notes.add("The agent could not report: {!r:.200}".format(error))

    def begin(self, sample_seconds, orphan_seconds):
        """A server has welcomed us: keep its beat, and tell it everything."""
        self.sample_seconds, self.orphan_seconds = sample_seconds, orphan_seconds
        with self._sending:
            self._sent_status, self._sent_waiting, self._sent_room = None, [], []
        self._due = time.monotonic()
        self._wakeups.put(None)

    def beat(self):
        """Look, tell what is new, and rest the longer the longer nothing was: an idle kernel should cost nothing.

        The next user code that passes the gate ends the rest. What works in the background is looked at on every beat.
        """
        self._looked_at, passed = time.monotonic(), self._gate.passed
        self._due = self._looked_at + self.sample_seconds  # also if what follows should fail
        self._sample()
        self._moves.tidy()
        is_news = self.push()
        is_busy = self._gate.inside or passed != self._looked_at_pass
        if is_news or is_busy or self._sent_status["background_work"] != []:
            self._rest_beats = 1
        else:
            self._rest_beats = min(2 * self._rest_beats, LONGEST_REST_BEATS)
        self._looked_at_pass = passed
        self._due = self._looked_at + self.sample_seconds * self._rest_beats
        self._gate.rouse = functools.partial(self._wakeups.put, None) if self._rest_beats > 1 else None

    def next_beat(self):
        """The end of the rest; but where anybody waits or has passed, no later than one beat after the last look."""
        if self._gate.waiting or self._gate.passed != self._looked_at_pass:
            return min(self._due, self._looked_at + self.sample_seconds)
        return self._due

    def push(self, only_if_urgent=False):
        """Send the status if it has changed; with `only_if_urgent`, if that should not wait for the beat.

        Returns whether there was anything to tell.
        """
        with self._sending:
            self._push_waiting()
            self._push_room()
            status = self.status()
            sent = self._sent_status
            if status == sent:
                return False
            if only_if_urgent and sent and not self._is_urgent(status, sent):
                return False
            if self._link.send(dict(status, op="status")):
                self._sent_status = status
            return True

    def status(self, background_work=None):
        """`protocol.STATUS_KEYS`. Without a fresh judgement in `background_work`, the last one there is."""
        gate, moves = self._gate, self._moves
        in_line = gate.waiting_for_place()
        wishes = self._room.wishes()
        return {
            "phase": gate.phase,
            "phase_since_at": gate.phase_since_at,
            "running_since_at": gate.running_since_at(),
            "waiting": len(gate.waiting) if gate.phase != RESIDENT else 0,
            "room_wanted": bytes_by_gpu(wishes),
            "room_wanted_at": min((wish.since_at for wish in wishes), default=None),
            "place_wanted_at": min((passage.since_at for passage in in_line), default=None),
            "last_active_at": gate.last_active_at,
            "background_work": self._watch.snapshot() if background_work is None else background_work,
            "allocator_active": self._allocator_active,
            "gpus": self._gpus,
            "mechanism": "torch_offload" if moves.mechanism else None,
            "framework": moves.mechanism.framework if moves.mechanism else None,
            "unsupported": moves.unsupported,
            "host_bytes": self._host_bytes,
            "needed_bytes": moves.needed_bytes,
            "spilled_bytes": moves.spilled_bytes,
            "unmovable": moves.unmovable,
            "notes": self._notes.listed(),
        }

    def measure(self):
        """Ask the mechanism what is held. Not during a move, which would be asked about things in motion."""
        mechanism = self._moves.find_mechanism()
        if mechanism is None or self._moves.preparing or self._gate.phase in (RECLAIMING, RESTORING):
            return
        passed = self._gate.passed
        try:
            counters, self._gpus, self._host_bytes = (
                mechanism.counters(),
                mechanism.gpus(),
                mechanism.host_bytes,
            )
        except Exception as error:
            self._moves.do_without_mechanism(error)
            return
        if passed == self._counted_at_pass and not self._gate.inside:
            self._allocator_active = counters != self._counters
        self._counters, self._counted_at_pass = counters, passed

    def _sample(self):
        self._watch.sample()
        self.measure()

    def _push_waiting(self):
        """The wish for a restore: how many wait at a gate that only the server can open. Each newcomer says it anew."""
        waiting = list(self._gate.waiting) if self._gate.phase == RECLAIMED else []
        if waiting == self._sent_waiting:
            return
        if waiting:
            wish = {"op": "restore_wanted", "cells": len(waiting), "trigger": waiting[-1].trigger}
            sent = self._link.send(wish)
        else:
            # while the bytes come back nobody has given up, they only need not ask any more
            sent = self._gate.phase != RECLAIMED or self._link.send({"op": "restore_unwanted"})
        if sent:
            self._sent_waiting = waiting

    def _push_room(self):
        """Each newcomer says it anew: one admitted too early is back, as often as not, before anybody saw it gone."""
        wishes = self._room.wishes()
        if wishes != self._sent_room and self._link.send({"op": "room_wanted", "gpus": bytes_by_gpu(wishes)}):
            self._sent_room = wishes

    def _is_end_of_turn(self):
        """With running places: whether the server takes code for running that has ended."""
        sent, gate = self._sent_status, self._gate
        running = sent is not None and sent["running_since_at"] is not None
        return running and gate.place_needed is not None and gate.running_since_at() is None

    def _is_urgent(self, status, sent):
        """Whether the server should hear of it now: it acts on these; with places, also on the end of user code."""
        if self._gate.place_needed is not None and (status["running_since_at"] is None) != (
            sent["running_since_at"] is None
        ):
            return True
        return any(status[key] != sent[key] for key in URGENT)

    def _pause_seconds(self):
        until_next_beat = max(0.0, self.next_beat() - time.monotonic())
        if not self._gate.waiting:
            return until_next_beat
        return min(until_next_beat, PING_SECONDS if self._link.up else ORPHAN_BEAT_SECONDS)

    def _look_after_orphans(self):
        in_line = self._gate.waiting_for_place()
        if in_line and not self._link.up:
            self._gate.go_without_place()
        if self._link.up and (in_line or (self._gate.waiting and self._gate.phase == RECLAIMED)):
            self._link.ask_for_sign_of_life(max(self.orphan_seconds, SHORTEST_PATIENCE_SECONDS))
        gone = self._link.down_seconds()
        is_orphaned = gone > 0.0 and gone >= self.orphan_seconds
        if is_orphaned and self._gate.waiting and self._gate.phase == RECLAIMED:
            self._on_orphaned(gone)
