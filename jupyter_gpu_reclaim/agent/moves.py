"""The two moves, suspend and resume, from the last look before them to the reply after them.

Every move runs on the agent's one worker thread. Whatever goes wrong, the gate ends up open with the bytes on the GPU,
or closed with the bytes in host memory.
"""

import atexit
import os
import queue
import sys
import time

from . import torch_offload  # stdlib only; torch itself is imported by the user or not at all
from .host_limits import host_limit
from .protocol import RECLAIMED, RECLAIMING, RESIDENT, RESTORING
from .replies import done, failed, refused, unexpected

EXIT_ATTEMPTS = 3
OTHER_FRAMEWORKS = ("jax", "tensorflow", "cupy")
REFUSALS = {torch_offload.Cancelled: "cancelled", torch_offload.NothingToMove: "no_gpu_memory"}


def offload_of_torch():
    """The mechanism for what torch holds, or None while torch is not imported. Raises `torch_offload.Unsupported`."""
    return torch_offload.TorchOffload() if torch_offload.torch_is_loaded() else None


class Moves:
    """Suspends and resumes this kernel's GPU bytes.

    `send` takes a message and `note` a sentence for the server, `log` a sentence for its log, `submit` a function for
    the worker thread.
    """

    def __init__(self, gate, watch, send, note, log, submit, make_mechanism):
        self._gate = gate
        self._watch = watch
        self._send = send
        self._note = note
        self._log = log
        self._submit = submit
        self._make_mechanism = make_mechanism
        self._exiting = False
        self.host_buffer_seconds, self.host_reserve_bytes = 60.0, 0  # until the server says its own
        self.verify_episodes = None  # as many episodes are verified; None: all
        self._episodes = 0
        self._pid = os.getpid()
        self.preparing = False  # host memory is being taken for a move that may come
        self.mechanism = None
        self.unsupported = None
        self.needed_bytes = {}
        self.spilled_bytes = 0
        self.unmovable = {}

    def find_mechanism(self):
        """The mechanism, made as soon as there is something to move with. Not while user code may be importing it."""
        if self.mechanism is None and not self._gate.inside:
            try:
                self.mechanism = self._make_mechanism()
                self.unsupported = None if self.mechanism else _other_framework()
            except Exception as error:
                self.do_without_mechanism(error)
        return self.mechanism

    def do_without_mechanism(self, error):
        """The mechanism has turned out not to work here; it is made anew, and may work, when next looked for."""
        self.mechanism = None
        self.unsupported = str(error) if isinstance(error, torch_offload.Unsupported) else unexpected(error)

    def holds_memory(self):
        """Whether the mechanism's memory lies on a GPU now. Asked where user code is about to run."""
        try:
            mechanism = self.find_mechanism()
            return mechanism is not None and any(gpu["reserved_bytes"] for gpu in mechanism.gpus().values())
        except Exception as error:
            self.do_without_mechanism(error)
            return False

    # ---- suspend

    def suspend(self, host_limit_bytes=None, spill_room=None):
        """Move the bytes out, if nothing speaks against it at this moment. The reply's keys, without its id.

        Host memory is taken first, with the gate open: it takes longest, and a cell that arrives meanwhile just runs.
        """
        refusal = self._what_speaks_against()
        if refusal:
            return refusal
        passed = self._gate.passed
        limit = host_limit(host_limit_bytes, self.mechanism.host_bytes, self.host_reserve_bytes)
        self._prepare(passed, limit)
        if self._gate.passed != passed:
            return refused("running", "user code arrived while host memory was being taken")
        work = self._watch.judge()
        if work is None:
            return refused("background_unknown", "background work cannot be judged in this kernel")
        if work:
            return refused("background_work", "; ".join(work))
        if not self._gate.close():
            return refused("running", "user code arrived during the last look")
        try:
            return self._offload(passed, limit, spill_room)
        finally:
            if self._gate.phase == RECLAIMING:
                self._gate.open()
                self._release_spare_host_memory()

    def _what_speaks_against(self):
        if self._gate.phase != RESIDENT:
            return refused("already_reclaimed")
        if self._gate.inside or self._gate.waiting:
            return refused("running")
        if self.find_mechanism() is None:
            return refused("unsupported", self.unsupported) if self.unsupported else refused("no_gpu_memory")
        return None

    def _prepare(self, passed, limit):
        self.preparing = True
        try:
            self.mechanism.prepare(lambda: self._gate.passed != passed or self._is_unwanted(), limit.nbytes)
        except torch_offload.OutOfHostMemory:
            pass  # the move itself, if it still comes to that, says so
        finally:
            self.preparing = False

    def _offload(self, passed, limit, spill_room):
        """With the gate just closed: look a last time, then move."""
        if self._gate.passed != passed:
            return refused("running", "user code ran during the last look")
        work = self._watch.judge(burst_seconds=0.0)
        if self._is_unwanted():
            return refused("cancelled", "user code arrived before anything was moved")
        if work:
            return refused("background_work", "; ".join(work))
        # Handlers run last in, first out: ours must come before every one that the user has registered by now,
        # because those may read tensors. None can be added while the gate is closed.
        atexit.unregister(self.at_exit)
        atexit.register(self.at_exit)
        started = time.monotonic()
        try:
            details = self.mechanism.offload(
                self._is_unwanted, self._progress, limit.nbytes, spill_room, self._is_to_be_verified()
            )
        except torch_offload.OutOfHostMemory as error:
            return refused("host_memory", "{}{}".format(error, limit.because))
        except tuple(REFUSALS) as error:
            self.unmovable = dict(getattr(error, "unmovable", {}))
            return refused(REFUSALS[type(error)], str(error))
        except Exception as error:
            return failed(error)
        if details.problem:
            self._note("The GPU memory was not given back in full: {}".format(details.problem))
        self._episodes += 1
        self.needed_bytes = dict(details.needed_bytes)
        self.spilled_bytes = details.spilled_bytes
        self.unmovable = dict(details.unmovable)
        self._gate.become(RECLAIMED)
        return done(details, time.monotonic() - started)

    def _is_to_be_verified(self):
        return self.verify_episodes is None or self._episodes < self.verify_episodes

    def _is_unwanted(self):
        return bool(self._gate.waiting) or self._exiting

    # ---- resume

    def resume(self):
        """Bring the bytes back and open the gate. The reply's keys, without its id."""
        if self._gate.phase == RESIDENT:
            return refused("already_resident")
        self._gate.become(RESTORING)
        started = time.monotonic()
        try:
            details = self.mechanism.onload(self._progress)
        except Exception as error:
            self._gate.become(RECLAIMED)
            return failed(error)
        self.needed_bytes, self.spilled_bytes = {}, 0
        self._gate.open(with_place=True)
        reply = done(details, time.monotonic() - started)
        self._release_spare_host_memory()
        return reply

    # ---- host memory

    def tidy(self):
        """From time to time: have host memory given back that has not been needed for long."""
        if self._has_spare_host_memory():
            self._submit(self._release_spare_host_memory)

    def _has_spare_host_memory(self):
        """Whether the bytes have been on the GPU for `host_buffer_seconds` and the host still keeps room for them.

        Kept for a while, the buffer spares the next offload the slow first touch; kept for ever, a kernel would count
        twice against memory that belongs to its user and to other kernels.
        """
        gate, mechanism = self._gate, self.mechanism
        if gate.phase != RESIDENT or mechanism is None or not mechanism.host_bytes:
            return False
        return time.time() - gate.phase_since_at >= self.host_buffer_seconds

    def _release_spare_host_memory(self):
        """On the worker's thread, as all that touches the buffer, and with the gate open: nobody waits for it."""
        if not self._has_spare_host_memory():
            return
        try:
            self.mechanism.release_host_buffer()
        except Exception as error:
            self._note("Host memory could not be given back: {!r:.200}".format(error))

    def resume_by_itself(self, why):
        """User code waits and no server is there to ask: bring the bytes back if there is room, else end the wait."""
        reply = self.resume()
        if reply["outcome"] == "done":
            self._note("Restored by itself: " + why)
        elif reply["outcome"] == "failed":
            self._note("Could not restore by itself ({}): {}".format(why, reply["error"]))
            self._gate.end_waits(
                "GPURestoreFailed",
                "the Jupyter server that hands out GPU memory does not answer, and the memory could not be brought "
                "back without it ({}). The cell did not run. Nothing was lost, the data is safe in host memory: run "
                "the cell again to try again.".format(reply["error"]),
            )

    # ---- exit

    def at_exit(self):
        """Runs before every handler and finaliser of the user, which may read tensors: put the bytes back first.

        User code on poisoned memory would crash or, worse, write a wrong file; so if the bytes cannot be brought
        back, the process ends here and says so.
        """
        if os.getpid() != self._pid:
            return  # a forked child: the bytes are its parent's
        ends = queue.SimpleQueue()
        while True:
            try:
                self._exiting = True
                self._submit(lambda: ends.put(self._restore_for_exit()))
                error = ends.get()
                break
            except KeyboardInterrupt:
                continue  # the kernel is ending already, and leaving this half done would be worse
        if error:
            self._end_without_handlers(error)
        self._gate.resume_collection()

    def _restore_for_exit(self):
        """On the worker thread, after the move under way (an offload is cancelled): None, or what went wrong."""
        for _ in range(EXIT_ATTEMPTS):
            reply = self.resume()
            if reply["outcome"] == "done":
                self._note("Restored by itself: the kernel is ending")
            if reply["outcome"] != "failed":
                return None
        return reply["error"]

    def _end_without_handlers(self, error):
        sentence = (
            "jupyter_gpu_reclaim: this kernel ends with its GPU memory still in host memory, because it could not be "
            "brought back ({}). Its exit handlers and finalisers were not run: they might have read that memory. "
            "Free GPU memory before shutting a reclaimed kernel down.".format(error)
        )
        self._note(sentence)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # a broken stream of the user's must not keep the rest from being said
                pass
        self._log(sentence)
        os._exit(1)

    def _progress(self, done_bytes, total_bytes):
        """Told by the mechanism, at most five times a second."""
        self._send({"op": "progress", "done_bytes": done_bytes, "total_bytes": total_bytes})


def _other_framework():
    for name in OTHER_FRAMEWORKS:
        if name in sys.modules:
            return "{} is loaded, whose GPU memory cannot be moved; only PyTorch's can.".format(name)
    return None
