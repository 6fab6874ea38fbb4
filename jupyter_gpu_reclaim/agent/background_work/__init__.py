"""Judges whether code that no gate guards runs in this kernel, or may start by itself, between cells.

Three rules together, because each alone was measured to fail (of 19 kinds of user code the stacks alone missed 12):
whose code a thread, timer, task or handler was *given*; whose code is on the *stacks*; and whether what is left is a
known service or *parked* where only other code of the process can wake it. Whatever cannot be judged counts as work.

Not seen, by design: child processes (the server looks at those); `__del__`, weakref callbacks and `atexit` (they run
only when other code does); threads of C libraries, but for the moments that they spend in Python.
"""

import gc
import signal
import sys
import threading
import time

from .callables import Callables, instance_dict
from .loops import Loops, copied
from .origin import SERVICE, USER, Origins, says, text
from .threads import HARMLESS, PASSIVE, Threads, stack_of

OWN_THREADS = "gpu-reclaim-agent"  # the names of the agent's own threads start so
_BURST_INTERVAL = 0.01  # seconds between the samples of a burst
_FORGET_AFTER = 20  # samples in a row that find a thread passive, before what it did is forgotten
_THE_LOOK_ITSELF = 0  # in place of a thread's ident
_TIMERS = {
    signal.SIGALRM: signal.ITIMER_REAL,
    signal.SIGVTALRM: signal.ITIMER_VIRTUAL,
    signal.SIGPROF: signal.ITIMER_PROF,
}


class BackgroundWork:
    """The judge of one kernel. Called from the agent's threads while the kernel's main thread idles in its event loop.

    Nothing here raises, prints, or runs code of the user's; a failure inside is a finding, so it keeps the kernel
    resident. `harmless_modules` are dotted names of modules (with all below them) that a person vouches for.
    """

    def __init__(self, kernel, harmless_modules=()):
        self._kernel = kernel
        self._origins = Origins(harmless_modules)
        self._callables = Callables(self._origins)
        self._threads = Threads(self._origins, self._callables)
        self._loops = Loops(self._callables)
        self._lock = threading.Lock()
        self._generation = 0
        self._clear()

    def reset(self):
        """Forgets the samples: user code has run at the gate."""
        with self._lock:
            self._generation += 1
            self._clear()

    def sample(self):
        """Adds what all other threads do at this instant; some 100 µs in a kernel with few threads."""
        with self._lock:
            generation = self._generation
        try:
            verdicts = self._look_at_threads()
        except Exception as error:
            verdicts = {_THE_LOOK_ITSELF: _not_judged("the threads", error)}
        with self._lock:
            if generation == self._generation:
                self._samples += 1
                self._remember(verdicts)

    def judge(self, burst_seconds=0.25):
        """Findings, one sentence each; [] for none. Samples for `burst_seconds`, then looks at loops and signals."""
        end = time.monotonic() + burst_seconds
        self.sample()
        while time.monotonic() < end:
            time.sleep(_BURST_INTERVAL)
            self.sample()
        return self._findings()

    def snapshot(self):
        """The same without a burst; None before the first sample since the last reset."""
        with self._lock:
            if not self._samples:
                return None
        return self._findings()

    def _clear(self):
        self._samples = 0
        self._seen = {}  # thread ident → the sentence about it
        self._passive = {}  # thread ident → samples in a row that found it passive

    def _remember(self, verdicts):
        """Adds verdicts; forgets threads that have ended, or that have long been waiting for others."""
        if _THE_LOOK_ITSELF not in verdicts:  # else no thread was judged, so none is known to have ended
            known = {*verdicts, _THE_LOOK_ITSELF}
            self._seen = {ident: finding for ident, finding in self._seen.items() if ident in known}
        self._passive = {
            ident: self._passive.get(ident, 0) + 1 for ident, v in verdicts.items() if v is PASSIVE
        }
        for ident, verdict in verdicts.items():
            if verdict is not HARMLESS and verdict is not PASSIVE:
                self._seen[ident] = verdict
            elif self._passive.get(ident, 0) >= _FORGET_AFTER:
                self._seen.pop(ident, None)

    def _look_at_threads(self):
        """{thread ident: HARMLESS, PASSIVE or a sentence} for every thread but the agent's own."""
        frames = sys._current_frames()
        del frames[threading.get_ident()]  # this very frame: a cycle that would keep every other one alive
        stacks = {ident: stack_of(frame) for ident, frame in frames.items()}
        frames.clear()
        main, known_loops = self._main_ident(), self._known_loops()
        active = dict(threading._active)  # not enumerate(): an attached debugger hides threads from it
        verdicts = {}
        for ident, stack in stacks.items():
            thread = active.get(ident)
            if text(instance_dict(thread).get("_name"), "").startswith(OWN_THREADS):
                continue
            if ident == main:
                verdicts[ident] = self._threads.judge_main(stack)
            else:
                verdicts[ident] = self._threads.judge(thread, stack, known_loops)
        return verdicts

    def _main_ident(self):
        loop = getattr(getattr(self._kernel, "io_loop", None), "asyncio_loop", None)
        return getattr(loop, "_thread_id", None) or threading.main_thread().ident

    def _known_loops(self):
        """Loops that libraries leave running for ever: those of IPython's script cells and of fsspec."""
        found = []
        fsspec = sys.modules.get("fsspec.asyn")
        if fsspec is not None:
            found += fsspec.__dict__.get("loop", ())[:1]
        shell = getattr(self._kernel, "shell", None)
        registry = getattr(getattr(shell, "magics_manager", None), "registry", {})
        magics = instance_dict(registry.get("ScriptMagics"))
        found.append(magics.get("event_loop") or magics.get("_trait_values", {}).get("event_loop"))
        return [loop for loop in found if loop is not None]

    def _findings(self):
        with self._lock:
            findings = list(self._seen.values())
        for what, look in (
            ("the kernel's event loop", self._kernel_loop),
            ("the event loops of other threads", self._other_loops),
            ("signal handlers", self._signals),
            ("callbacks of the garbage collector", self._collector),
        ):
            try:
                findings += look()
            except Exception as error:
                findings.append(_not_judged(what, error))
        return list(dict.fromkeys(findings))

    def _kernel_loop(self):
        io_loop, whose = self._kernel.io_loop, "the kernel's event loop"
        findings = self._loops.judge(io_loop.asyncio_loop, whose) + self._loops.judge_tornado(io_loop, whose)
        if self._kernel.eventloop is not None:
            findings.append("a GUI event loop is enabled (%gui), which runs callbacks between cells")
        return findings

    def _other_loops(self):
        findings = []
        for thread in copied(threading._active.values()):
            attributes = instance_dict(thread)
            io_loop = attributes.get("io_loop")  # ipykernel's own threads, subshells among them
            if io_loop is not None and self._origins.of_class(type(thread)).kind == SERVICE:
                whose = "the event loop of thread " + repr(text(attributes.get("_name")))
                findings += self._loops.judge(io_loop.asyncio_loop, whose)
        for loop in self._known_loops():
            findings += self._loops.judge(loop, "an event loop in a thread")
        return findings

    def _signals(self):
        findings = []
        for number in range(1, signal.NSIG):
            handler = signal.getsignal(number)
            if handler is None or type(handler) is signal.Handlers:
                continue
            armed = number in _TIMERS and signal.getitimer(_TIMERS[number])[0] > 0
            # a handler of a library's waits for somebody to send the signal, and then only ends or reports
            kinds = [origin for origin in self._callables.ends(handler) if origin.kind == USER or armed]
            foreign = [origin for origin in kinds if origin.kind != SERVICE]
            if foreign:
                when = "the timer of signal " if armed else "signal "
                findings.append(when + signal.Signals(number).name + " runs " + says(foreign[0]))
        return findings

    def _collector(self):
        user = [
            o for callback in list(gc.callbacks) for o in self._callables.ends(callback)[:1] if o.kind == USER
        ]
        return ["the garbage collector calls " + says(origin) for origin in user]


def _not_judged(what, error):
    said = text(error.args[0], "") if type(error).__module__ == "builtins" and error.args else ""
    return "could not be judged: " + what + " (" + type(error).__name__ + (": " + said if said else "") + ")"
