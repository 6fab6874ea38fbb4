"""Judges one thread by what it was given to run and by its stack."""

import queue
import threading
import types

from .callables import class_attribute, instance_dict
from .origin import LIBRARY, SERVICE, USER, last, says, text, within
from .turns import Turns

# PASSIVE: cannot go on unless other code of this process lets it, or work that is counted elsewhere comes back.
HARMLESS, PASSIVE = "harmless", "passive"
_STACK_LIMIT = 400
# Workers of the standard library and torch run what they are handed, so they are harmless only while they have nothing.
_POOL = "multiprocessing.pool"
_MANAGERS = ("concurrent.futures.process", "joblib.externals.loky.process_executor")
_EXECUTOR = "concurrent.futures.thread"
_LISTENERS = ("logging.handlers", "torch.utils.data._utils.pin_memory")
_WAITS = ("queue", "threading", "multiprocessing.connection", "multiprocessing.queues", "selectors")
_FEEDER = "multiprocessing.queues"
_STARTS = ("_bootstrap", "_bootstrap_inner", "run")
# Requests: every one that may run user code passes the gate.
_REQUESTS = ("dispatch_shell", "dispatch_control", "process_control")
_thread_run = threading.Thread.run


def stack_of(frame):
    """([(code, globals)] of a frame and its callers, innermost first; whether it waits for another thread, untimed).

    No frame is kept: it would keep the locals of a user's function alive, or end them in the agent's thread.
    """
    waits = False
    if frame.f_code is threading.Condition.wait.__code__:
        # Locals of this one function only: asking for those of a user's would keep its objects alive.
        waits = frame.f_locals.get("timeout", 0) is None
    calls = []
    while frame is not None and len(calls) < _STACK_LIMIT:
        calls.append((frame.f_code, frame.f_globals))
        frame = frame.f_back
    return calls, waits


class Threads:
    """Answers `judge(thread, stack)`, given where code comes from."""

    def __init__(self, origins, callables):
        self._origins = origins
        self._callables = callables
        self._turns = Turns()

    def judge(self, thread, stack, known_loops=()):
        """HARMLESS, PASSIVE, or a sentence that names what runs. `thread` is None where Python knows none.

        `stack` is from `stack_of`; the event loops in `known_loops` are judged elsewhere.
        """
        calls, waits = stack
        stack = [self._origins.of_code(code, global_names) for code, global_names in calls]
        if _passes_gate(stack):
            return HARMLESS
        _drop_the_start(stack)
        name = text(instance_dict(thread).get("_name"), "")
        who = "thread " + repr(name) if name else "a thread that Python has no name for"
        owners = self._owners(thread) or stack[-1:]
        user = [origin for origin in owners + stack[::-1] if origin.kind == USER]
        if user:
            return who + " runs " + says(user[0])
        if not owners:
            return who + " runs nothing that can be seen"
        if all(origin.kind == SERVICE for origin in owners):
            return HARMLESS
        if issubclass(type(thread), threading.Timer):
            return who + " is a timer that will run " + says(owners[0])
        return self._without_user_code(who, instance_dict(thread), owners[0], stack, waits, known_loops)

    def _unless_it_runs(self, who, attributes):
        """PASSIVE for an untimed wait, which must not end by itself."""
        if self._turns.keeps_running(attributes.get("_native_id")):
            return who + " keeps running, though it is only ever seen waiting for others"
        return PASSIVE

    def _without_user_code(self, who, attributes, owner, stack, waits, known_loops):
        """The verdict on a thread that was given no user code and was seen in none."""
        innermost = stack[0] if stack else owner
        if owner.module == _POOL:
            # what is outstanding stands in a dict of the pool's own class, among the arguments of its three handlers
            if any(
                issubclass(type(held), dict) and dict.__len__(held) for held in attributes.get("_args", ())
            ):
                return who + " serves a multiprocessing pool with work outstanding"
            return PASSIVE
        if owner.module in _MANAGERS:
            if attributes.get("pending_work_items") != {}:
                return who + " serves a process executor with work outstanding"
            return PASSIVE
        if owner.module in _LISTENERS and innermost.module in _WAITS:
            return PASSIVE
        if owner.module == _EXECUTOR and innermost.name == "_worker":
            # a sample falls where threads let go of the GIL, so between two short jobs: the next one is in the queue
            if any(
                type(held) is queue.SimpleQueue and not held.empty() for held in attributes.get("_args", ())
            ):
                return who + " serves a thread executor with work queued"
            return self._unless_it_runs(who, attributes)
        if waits and (owner.kind == LIBRARY or owner.module in (_EXECUTOR, _FEEDER)):
            return self._unless_it_runs(who, attributes)
        target = attributes.get("_target")
        if type(target) is types.MethodType and any(target.__self__ is loop for loop in known_loops):
            return HARMLESS
        if last(owner.name) in ("run_forever", "run_until_complete"):
            return who + " runs an event loop of its own"
        doing = "" if innermost == owner else ", now in " + says(innermost)
        return who + " runs " + says(owner) + doing + ", which is not known to be harmless"

    def _owners(self, thread):
        """The origins of what a Thread object was given to run; [] where there is none (any more)."""
        if thread is None:
            return []
        attributes, cls = instance_dict(thread), type(thread)
        run = attributes.get("run") or class_attribute(cls, "run")
        if run is _thread_run:
            run = attributes.get("_target")
        if issubclass(cls, threading.Timer):
            run = attributes.get("function")
        whose = self._origins.of_class(cls)
        ends = [] if run is None else self._callables.ends(run)
        if whose.kind == USER:
            return [whose._replace(name=whose.name + ".run"), *ends]
        if whose.kind == SERVICE and not any(end.kind == USER for end in ends):
            return [whose]  # its `run` may be wrapped by a decorator from elsewhere
        return ends

    def judge_main(self, stack):
        """The same for the thread of the kernel's event loop: only what the loop has called counts."""
        stack = [self._origins.of_code(code, global_names) for code, global_names in stack[0]]
        if _passes_gate(stack):
            return HARMLESS
        for depth, origin in enumerate(stack):
            if origin.kind != USER and last(origin.name) == "_run_once":
                stack = stack[:depth]
                break
        for origin in reversed(stack):
            if origin.kind == USER:
                return "the kernel's main thread runs " + says(origin) + " between cells"
        return PASSIVE


def _passes_gate(stack):
    """Whether a stack is the work of a request."""
    return any(origin.module == "ipykernel.kernelbase" and last(origin.name) in _REQUESTS for origin in stack)


def _drop_the_start(stack):
    """Take away how threads begin; an attached debugger starts them through a wrapper of its own."""
    while stack and (
        (stack[-1].module == "threading" and last(stack[-1].name) in _STARTS)
        or (len(stack) > 1 and within(stack[-1].module, ("debugpy",)))
    ):
        stack.pop()
