"""Judges one thread by what it was given to run and by its stack."""

import threading

from .callables import class_attribute, instance_dict
from .origin import LIBRARY, SERVICE, USER, says, text, within

HARMLESS, PASSIVE = "harmless", "passive"  # PASSIVE: cannot go on unless other code of this process lets it
_STACK_LIMIT = 400
_WAITS = ("queue", "threading", "multiprocessing.connection", "multiprocessing.queues", "selectors")
# Standard library and torch: workers that run what they are handed, so harmless only while they wait for more.
_POOL = "multiprocessing.pool"
_MANAGERS = ("concurrent.futures.process", "joblib.externals.loky.process_executor")
_PARKED = ("logging.handlers", "torch.utils.data._utils.pin_memory")
_PASSIVE_OWNERS = ("concurrent.futures.thread", "logging.handlers", "multiprocessing.queues")
_STARTS = ("_bootstrap", "_bootstrap_inner", "run")
# Requests: every one that may run user code passes the gate.
_REQUESTS = ("dispatch_shell", "dispatch_control", "process_control")
_thread_run = threading.Thread.run


def stack_of(frame):
    """[(code, globals)] of a frame and its callers, innermost first; no frame is kept."""
    stack = []
    while frame is not None and len(stack) < _STACK_LIMIT:
        stack.append((frame.f_code, frame.f_globals))
        frame = frame.f_back
    return stack


class Threads:
    """Answers `judge(ident, thread, frame)`, given where code comes from and which loops are known."""

    def __init__(self, origins, callables):
        self._origins = origins
        self._callables = callables

    def judge(self, thread, frame, known_loops=()):
        """HARMLESS, PASSIVE, or a sentence that names what runs. `thread` is None where Python knows none."""
        stack = [self._origins.of_code(code, globals_) for code, globals_ in stack_of(frame)]
        if passes_gate(stack):
            return HARMLESS
        while stack and (stack[-1].module == "threading" and stack[-1].name.rpartition(".")[2] in _STARTS):
            stack.pop()
        while stack and within(stack[-1].module, ("debugpy",)) and len(stack) > 1:
            stack.pop()  # an attached debugger starts threads through a wrapper of its own
        who = "thread " + repr(text(instance_dict(thread).get("_name"), "without a name"))
        owners = self.owners(thread) or stack[-1:]
        user = [origin for origin in owners + stack[::-1] if origin.kind == USER]
        if user:
            return who + " runs " + says(user[0])
        if isinstance_of(thread, threading.Timer):
            if all(origin.kind == SERVICE for origin in owners):
                return HARMLESS
            return who + " is a timer that will run " + says(owners[0])
        return self._without_user_code(who, thread, owners, stack, frame, known_loops)

    def _without_user_code(self, who, thread, owners, stack, frame, known_loops):
        if all(origin.kind == SERVICE for origin in owners):
            return HARMLESS
        module, attributes = owners[0].module, instance_dict(thread)
        if module == _POOL:
            # what is outstanding stands in a dict of the pool's own class, among the arguments of its three handlers
            if any(isinstance_of(held, dict) and dict.__len__(held) for held in attributes.get("_args", ())):
                return who + " serves a multiprocessing pool with work outstanding"
            return PASSIVE
        if module in _MANAGERS:
            if attributes.get("pending_work_items") != {}:
                return who + " serves a process executor with work outstanding"
            return PASSIVE
        if module in _PARKED and within(stack[0].module, _WAITS):
            return PASSIVE
        if module == "concurrent.futures.thread" and stack[0].name == "_worker":
            return PASSIVE
        if (owners[0].kind == LIBRARY or module in _PASSIVE_OWNERS) and waits_for_others(frame):
            return PASSIVE
        loop = getattr(attributes.get("_target"), "__self__", None) if module.startswith("asyncio") else None
        if loop is not None and any(loop is known for known in known_loops):
            return HARMLESS
        if module.startswith("asyncio"):
            return who + " runs an event loop of its own"
        doing = "" if not stack or stack[0] == owners[0] else ", now in " + says(stack[0])
        return who + " runs " + says(owners[0]) + doing + ", which is not known to be harmless"

    def owners(self, thread):
        """The origins of what a Thread object was given to run; [] where there is none (any more)."""
        if thread is None:
            return []
        attributes, cls = instance_dict(thread), type(thread)
        if isinstance_of(thread, threading.Timer):
            return self._callables.ends(attributes.get("function"))
        run = attributes.get("run") or class_attribute(cls, "run")
        if run is _thread_run:
            run = attributes.get("_target")
        whose = self._origins.of_class(cls)
        ends = self._callables.ends(run) if run is not None else []
        return [whose._replace(name=whose.name + ".run")] + ends if whose.kind == USER else ends

    def judge_main(self, frame):
        """The same for the thread of the kernel's event loop: only what the loop has called counts."""
        stack = [self._origins.of_code(code, globals_) for code, globals_ in stack_of(frame)]
        if passes_gate(stack):
            return HARMLESS
        called = stack
        for depth, origin in enumerate(stack):
            if origin.name.endswith("_run_once") and origin.kind != USER:
                called = stack[:depth]
                break
        for origin in reversed(called):
            if origin.kind == USER:
                return "the kernel's main thread runs " + says(origin) + " between cells"
        return PASSIVE


def passes_gate(stack):
    """Whether a stack is the work of a request."""
    return any(
        origin.module == "ipykernel.kernelbase" and origin.name.rpartition(".")[2] in _REQUESTS
        for origin in stack
    )


def isinstance_of(thing, cls):
    """isinstance without asking the thing."""
    return issubclass(type(thing), cls)


def waits_for_others(frame):
    """Whether a frame is an untimed wait for another thread: only code of this process can end it."""
    code = frame.f_code
    if frame.f_globals is not threading.__dict__ or code is not threading.Condition.wait.__code__:
        return False
    # Locals of this one function only: asking for those of a user's frame would keep its objects alive.
    return frame.f_locals.get("timeout", 0) is None
