"""Judges an asyncio event loop between requests: its tasks, timers, callbacks, readers, signal handlers."""

import asyncio

from .callables import instance_dict
from .origin import SERVICE, STDLIB, USER, says, within

_LOOP_MODULES = (
    "asyncio",
    "_asyncio",
    "contextvars",
    "_contextvars",
    "concurrent.futures",
    "nest_asyncio",
    "nest_asyncio2",
)
_WAKE_UP = "_read_from_self"  # the loop's own pipe
_TRIES = 5


def copied(collection):
    """A list of what another thread may be changing; RuntimeError after some tries."""
    for attempt in range(_TRIES):
        try:
            return list(collection)
        except RuntimeError:
            if attempt == _TRIES - 1:
                raise
    return []


class Loops:
    """Answers `judge(loop, whose)` and `judge_tornado(io_loop, whose)`, given where code comes from."""

    def __init__(self, origins, callables):
        self._origins = origins
        self._callables = callables

    def judge(self, loop, whose):
        """One sentence for each thing in an asyncio loop that may run code without a request. `whose` names it."""
        findings = []
        for task in asyncio.all_tasks(loop):
            origin = self._of_task(task)
            if origin is not None:
                findings.append("a task on " + whose + " runs " + says(origin))
        for handle in copied(loop._scheduled) + copied(loop._ready):
            origin = None if handle._cancelled else self._foreign(handle._callback, handle._args or ())
            if origin is not None:
                findings.append(whose + " will call " + says(origin))
        for key in copied(loop._selector._fd_to_key.values()):
            for handle in key.data or ():
                origin = None if handle is None else self._of_reader(handle)
                if origin is not None:
                    findings.append(whose + " calls " + says(origin) + " when a file or socket is ready")
        for number, handle in copied(getattr(loop, "_signal_handlers", {}).items()):
            origin = self._foreign(handle._callback, handle._args or ())
            if origin is not None:
                findings.append(whose + " calls " + says(origin) + " on signal " + str(int(number)))
        return findings

    def judge_tornado(self, io_loop, whose):
        """The same for what tornado adds to its asyncio loop: handlers of files and sockets."""
        findings = []
        for _, handler in copied(instance_dict(io_loop).get("handlers", {}).values()):
            ends = self._callables.ends(handler)
            foreign = [origin for origin in ends if not within(origin.module, ("zmq", "ipykernel"))]
            # ipykernel hands its streams wrapped functions of its own, contextvars and tornado around them
            foreign = [o for o in foreign if o.kind not in (SERVICE, STDLIB) or "accept" in o.name]
            if foreign:
                findings.append(whose + " calls " + says(foreign[0]) + " when a file or socket is ready")
        return findings

    def _of_task(self, task):
        ends = self._callables.ends(asyncio.Task.get_coro(task))
        if any(within(origin.module, ("ipykernel",)) for origin in ends):
            return None  # the work of a request, which passes the gate
        return self._first_foreign(ends)

    def _foreign(self, callback, arguments):
        if callback is None:
            return None
        return self._first_foreign(self._callables.ends(callback, arguments))

    def _of_reader(self, handle):
        ends = self._callables.ends(handle._callback, handle._args or ())
        foreign = self._first_foreign(ends)
        if foreign is not None:
            return foreign
        for origin in ends:
            own = origin.name.rpartition(".")[2] == _WAKE_UP or within(origin.module, ("tornado.platform",))
            if not own and origin.kind in (STDLIB, USER):
                return origin
        return None

    @staticmethod
    def _first_foreign(ends):
        for origin in ends:
            if origin.kind != SERVICE and not (origin.kind != USER and within(origin.module, _LOOP_MODULES)):
                return origin
        return None
