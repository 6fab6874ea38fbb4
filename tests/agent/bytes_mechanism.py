"""Run inside a kernel under test: a mechanism without a GPU, whose "tensors" end the process when read while away.

It keeps the contract of agent/torch_offload and uses its exceptions and results. A move waits while the file `hold`
exists, so that a test can look at a kernel in the midst of one.
"""

import os
import sys
import time

outcome = sys.modules["_jupyter_gpu_reclaim_agent.torch_offload"]
OutOfDeviceMemory = outcome.OutOfDeviceMemory


class Bytes:
    """A "tensor": reading it while its bytes are away ends the process, as it does on a GPU."""

    def __init__(self, text):
        self._text = text
        self._mechanism = mechanism
        mechanism.tensors.append(self)

    def read(self, abort=os.abort):
        """Its bytes. Needs no global name: finalisers at exit call it when those are gone."""
        if self._mechanism.offloaded:
            abort()
        return self._text


class BytesMechanism:
    """Holds everything in lists, and fails on demand: `fails` maps a move to how often and with what it fails."""

    framework = "bytes 1"
    offloaded = False
    host_bytes = 0

    def __init__(self, hold):
        self.tensors = []
        self.hold = hold
        self.fails = {}
        self.activity = 0
        self.threads = []

    def gpus(self):
        """One made-up GPU."""
        held = 0 if self.offloaded else sum(len(tensor._text) for tensor in self.tensors)
        return {"GPU-test": {"name": "Test", "index": 0, "allocated_bytes": held, "reserved_bytes": held}}

    def counters(self):
        """Changes whenever a test says so."""
        return self.activity

    def offload(self, cancelled, progress, host_limit_bytes=None, spill_room=None, verify=True):
        """Mark everything as away."""
        total = sum(len(tensor._text) for tensor in self.tensors)
        if not total:
            raise outcome.NothingToMove("there is nothing")
        if host_limit_bytes is not None and host_limit_bytes < total:
            raise outcome.OutOfHostMemory(f"only {host_limit_bytes} bytes are allowed")
        self._fail_on_demand("offload")
        progress(0, total)
        while True:
            if cancelled():
                raise outcome.Cancelled("user code arrived")
            if not os.path.exists(self.hold):
                break
            time.sleep(0.002)
        self.offloaded, self.host_bytes = True, total
        return outcome.Offloaded(
            moved_bytes=total,
            spilled_bytes=0,
            freed_bytes={"GPU-test": total},
            needed_bytes={"GPU-test": total},
            unmovable={},
            unexplained_bytes=0,
            host_bytes=total,
            seconds={},
            problem=None,
        )

    def onload(self, progress):
        """Bring everything back."""
        self._fail_on_demand("onload")
        while os.path.exists(self.hold):
            time.sleep(0.002)
        moved, self.offloaded, self.host_bytes = self.host_bytes, False, 0
        return outcome.Onloaded(moved, {})

    def prepare(self, stopped, host_limit_bytes=None):
        """Takes until it is stopped if the test wants that, and says that it has begun."""
        if os.path.exists(self.hold + "-prepare"):
            os.rename(self.hold + "-prepare", self.hold + "-preparing")
            while not stopped():
                time.sleep(0.002)

    def release_host_buffer(self):
        """There is none."""

    def _fail_on_demand(self, move):
        times, error, sentence = self.fails.get(move, (0, None, ""))
        if times:
            self.fails[move] = times - 1, error, sentence
            raise error(sentence)


mechanism = BytesMechanism(HOLD)  # noqa: F821 (the test puts HOLD into the namespace)
agent = sys.modules["_jupyter_gpu_reclaim_agent"].running
agent.moves.mechanism = mechanism
