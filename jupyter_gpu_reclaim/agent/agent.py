"""The agent of one kernel: its gate, its link to the server, and threads that move, report, and answer allocations."""

import functools
import os
import queue
import sys

from .gate import Gate
from .kernel_hooks import KernelHooks
from .link import Link, start_thread
from .moves import Moves, offload_of_torch
from .out_of_memory import explain_out_of_memory
from .protocol import RESIDENT
from .replies import failed, refused
from .reporter import Notes, Reporter
from .room import Room
from .torch_offload import SpillRoom
from .watch import Watch


class Agent:
    """Made once per kernel, on its main thread. `invitation`: socket, kernel_id and secret, as the server gave them."""

    def __init__(self, kernel, invitation, make_mechanism=offload_of_torch):
        self._kernel = kernel
        self._jobs = queue.SimpleQueue()
        self._moves_ahead = 0  # asked for and not yet done
        self._orphaned = False
        wakeups = queue.SimpleQueue()
        self.notes = Notes()
        self.gate = Gate(functools.partial(wakeups.put, None), self._run_on_main)
        self.watch = Watch(self.gate, self.notes.add)
        self.link = Link(invitation, self._phase, self._on_welcome, self._on_message, self.notes.add)
        self.moves = Moves(
            self.gate, self.watch, self.link.send, self._say, self._log, self._jobs.put, make_mechanism
        )
        self.room = Room(
            self.gate, self.link, self._control_thread, functools.partial(wakeups.put, None), self.notes.add
        )
        self.reporter = Reporter(
            self.gate, self.moves, self.room, self.watch, self.link, self.notes, wakeups, self._on_orphaned
        )

    def start(self):
        """Put the gate in place and begin to talk to the server."""
        KernelHooks(self._kernel, self.gate).install()
        explain_out_of_memory(self._kernel.shell, self.room, self.gate, self.notes.add)
        os.register_at_fork(after_in_child=self._become_inert)
        self.room.listen()
        start_thread("gpu-reclaim-agent-room", self.room.run)
        start_thread("gpu-reclaim-agent-worker", self._work)
        start_thread("gpu-reclaim-agent-reporter", self.reporter.run)
        self.link.start()

    # ---- what the server says (on the link's thread, which must never work on anything itself)

    def _on_welcome(self, welcome):
        self.watch.begin(self._kernel, welcome.get("harmless_modules", ()))
        self.moves.host_buffer_seconds = float(welcome["host_buffer_seconds"])
        self.moves.host_reserve_bytes = int(welcome["host_reserve_bytes"])
        verify_episodes = welcome["verify_episodes"]
        self.moves.verify_episodes = None if verify_episodes is None else int(verify_episodes)
        self.room.wait_seconds = float(welcome.get("room_wait_seconds", 0.0))
        self.gate.place_needed = self._needs_place if welcome.get("places") else None
        if self.gate.place_needed is None:
            self.gate.go_without_place()
        self.reporter.begin(float(welcome["sample_seconds"]), float(welcome["orphan_seconds"]))

    def _on_message(self, message):
        operation, request = message["op"], message.get("id")
        if operation == "suspend":
            self._ask_for_move(request, functools.partial(self.moves.suspend, *_room_on_the_host(message)))
        elif operation == "resume":
            self._ask_for_move(request, self.moves.resume)
        elif operation == "look":
            if self._moves_ahead:
                self._reply(request, self.reporter.status())
            else:
                self._jobs.put(functools.partial(self._look, request))
        elif operation == "end_wait":
            interrupted = bool(message.get("interrupted"))
            ename = "GPURestoreInterrupted" if interrupted else "GPURestoreTimeout"
            self.gate.end_waits(ename, str(message.get("message", "")))
            self.room.end_waits(interrupted)
        elif operation == "admit":
            self.gate.admit()
            self.room.admit()

    def _ask_for_move(self, request, move):
        if self._moves_ahead:
            self._reply(request, refused("in_flight"))
            return
        self._moves_ahead += 1
        self._jobs.put(functools.partial(self._move, request, move))

    def _reply(self, request, keys):
        self.link.send(dict(keys, op="reply", re=request))

    # ---- the worker

    def _work(self):
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception as error:  # a fault of the agent's own: said, and the next job still done
                self._say("The agent failed unexpectedly: {!r:.200}".format(error))

    def _move(self, request, move):
        try:
            reply = move()
        except Exception as error:  # the bytes are whole all the same: see moves.py
            reply = failed(error)
        self._moves_ahead -= 1
        self.reporter.measure()
        self.reporter.push()  # before the reply: who reads it next looks at the status
        self._reply(request, reply)

    def _look(self, request):
        judged = self.watch.judge() if self.gate.phase == RESIDENT else None
        self.reporter.measure()
        self._reply(request, self.reporter.status(judged))

    def _on_orphaned(self, gone_seconds):
        """From the reporter, again and again: one attempt at a time."""
        if self._orphaned:
            return
        self._orphaned = True
        why = "user code waited and the server had been gone for {:.0f} s".format(gone_seconds)
        self._jobs.put(functools.partial(self._care_for_orphan, why))

    def _care_for_orphan(self, why):
        try:
            if self.gate.waiting and not self.link.up:
                self.moves.resume_by_itself(why)
        finally:
            self._orphaned = False

    # ---- what the parts need of each other and of the kernel

    def _phase(self):
        return self.gate.phase

    def _needs_place(self):
        """With running places: whether user code has to have one. What is on the host now will be on the GPU then."""
        return self.link.up and (self.gate.phase != RESIDENT or self.moves.holds_memory())

    def _control_thread(self):
        """The system's id of the thread that answers on the control channel; None where there is none."""
        return getattr(getattr(self._kernel, "control_thread", None), "native_id", None)

    def _say(self, sentence):
        self.notes.add(sentence)
        self.reporter.push()

    def _log(self, sentence):
        """One line in the server's log. Not to fd 2: ipykernel shows what is written there in a cell."""
        try:
            self._kernel.log.error(sentence)
        except Exception:
            sys.__stderr__.write(sentence + "\n")

    def _run_on_main(self, function):
        self._kernel.io_loop.add_callback(function)

    def _become_inert(self):
        """In a forked child there is no server, no thread of ours and no gate: the bytes are the parent's."""
        self.link.close_in_child()
        self.room.close_in_child()
        self.gate.open_in_child()


def _room_on_the_host(message):
    """(host_limit_bytes, `SpillRoom` or None) of a suspend order."""
    spill_dir, spill_bytes = message.get("spill_dir"), message.get("spill_limit_bytes")
    return message.get("host_limit_bytes"), SpillRoom(
        spill_dir, spill_bytes
    ) if spill_dir and spill_bytes else None
