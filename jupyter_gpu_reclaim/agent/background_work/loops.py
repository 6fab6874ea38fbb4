"""Judges an asyncio event loop between requests: its tasks, timers, callbacks, readers, signal handlers."""

import asyncio
import itertools

from .callables import coroutine_of, instance_dict
from .origin import SERVICE, USER, last, says, within

# Machinery: what it calls in turn is looked at by itself.
_LOOP_MODULES = (
    "_asyncio",
    "_contextvars",
    "asyncio",
    "concurrent.futures",
    "contextvars",
    "nest_asyncio",
    "nest_asyncio2",
    "tornado",
)
# The loop's own pipe, and tornado's way into its handlers.
_READERS = (("asyncio.selector_events", "_read_from_self"), ("tornado.platform.asyncio", "_handle_events"))
_ENOUGH = 20  # findings in one loop
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
    """Answers `judge(loop, whose)`, given how to find what a callable runs."""

    def __init__(self, callables):
        self._ends = callables.ends

    def judge(self, loop, whose):
        """A sentence for each thing in an asyncio loop that may run code without a request. `whose` names the loop.

        At most 20, so that a loop full of timers costs no more than one with a few.
        """
        looks = (self._tasks(loop), self._timers(loop), self._readers(loop), self._signals(loop))
        found = ((sentence, origin) for sentence, origin in itertools.chain(*looks) if origin is not None)
        return [sentence.format(whose, says(origin)) for sentence, origin in itertools.islice(found, _ENOUGH)]

    def judge_tornado(self, io_loop, whose):
        """The same for what tornado adds to its asyncio loop: handlers of files and sockets."""
        handlers = copied(instance_dict(io_loop).get("handlers", {}).values())
        origins = (_first(self._ends(handler), lambda o: o.kind != SERVICE) for _, handler in handlers)
        found = (origin for origin in origins if origin is not None)
        return [_WHEN_READY.format(whose, says(origin)) for origin in itertools.islice(found, _ENOUGH)]

    def _tasks(self, loop):
        for task in asyncio.all_tasks(loop):
            ends = self._ends(coroutine_of(task))
            if not any(
                within(origin.module, ("ipykernel",)) for origin in ends
            ):  # a request, which passes the gate
                yield "a task on {} runs {}", _first(ends, _is_foreign)

    def _timers(self, loop):
        for handle in copied(loop._scheduled) + copied(loop._ready):
            if not handle._cancelled:
                yield "{} will call {}", self._of_handle(handle)

    def _readers(self, loop):
        for key in copied(loop._selector._fd_to_key.values()):
            for handle in key.data or ():
                if handle is not None:
                    ends = self._ends(handle._callback, handle._args or ())
                    yield (
                        _WHEN_READY,
                        _first(
                            ends, lambda o: o.kind != SERVICE and (o.module, last(o.name)) not in _READERS
                        ),
                    )

    def _signals(self, loop):
        for number, handle in copied(getattr(loop, "_signal_handlers", {}).items()):
            yield "{} calls {} on signal " + str(int(number)), self._of_handle(handle)

    def _of_handle(self, handle):
        callback, arguments = handle._callback, handle._args or ()  # both None once cancelled
        return None if callback is None else _first(self._ends(callback, arguments), _is_foreign)


_WHEN_READY = "{} calls {} when a file or socket is ready"


def _is_foreign(origin):
    machinery = origin.kind != USER and within(origin.module, _LOOP_MODULES)
    return origin.kind != SERVICE and not machinery


def _first(origins, wanted):
    return next((origin for origin in origins if wanted(origin)), None)
