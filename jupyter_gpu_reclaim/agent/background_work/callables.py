"""Which code a callable would run, found without calling, comparing or printing anything.

A callable is unwrapped through partials, bound methods, closures, coroutines and the holders below, to the code at its
ends. Objects of the user's are only asked for their type.
"""

import _asyncio
import asyncio
import functools
import types

from .origin import SERVICE, USER, Origin, class_name, mro, text, type_dict

_MOST = 200  # ends and wrappings looked at for one callable
_BUILTIN = (types.BuiltinFunctionType, types.MethodWrapperType)
_DESCRIPTOR = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
_SUSPENDED = {  # type → its code, its frame, what it waits for
    types.CoroutineType: ("cr_code", "cr_frame", "cr_await"),
    types.GeneratorType: ("gi_code", "gi_frame", "gi_yieldfrom"),
    types.AsyncGeneratorType: ("ag_code", "ag_frame", "ag_await"),
}
# Objects of libraries that hold the callable which a method of theirs will call.
_HOLDERS = {
    ("tornado.ioloop", "PeriodicCallback"): ("callback",),
    ("tornado.gen", "Runner"): ("gen",),
    ("zmq.eventloop.zmqstream", "ZMQStream"): ("_recv_callback", "_send_callback", "_errback"),
    ("asyncio.streams", "StreamReaderProtocol"): ("_client_connected_cb",),
}
# Methods in C that are only the inside of a task, or only run their argument.
_TASK_STEPS = (("builtins", "TaskStepMethWrapper"), ("_asyncio", "TaskStepMethWrapper"))
# Both kinds, whichever asyncio uses now: nest_asyncio puts the one in Python into the place of the one in C.
_C_TASK, _PY_TASK = _asyncio.Task, asyncio.tasks._PyTask
_C_FUTURE, _PY_FUTURE = _asyncio.Future, asyncio.futures._PyFuture
_c_callbacks = type_dict(_C_FUTURE)["_callbacks"].__get__
_partial_func = functools.partial.__dict__["func"].__get__
_partial_args = functools.partial.__dict__["args"].__get__


def instance_dict(thing):
    """The attributes kept on an instance, read past any property named `__dict__`; {} where there are none."""
    for base in mro(type(thing)):
        slot = type_dict(base).get("__dict__")
        if type(slot) is types.GetSetDescriptorType and base is not type:
            return slot.__get__(thing)
    return {}


def class_attribute(cls, name):
    """What the classes of `cls` say about `name`, without binding it."""
    for base in mro(cls):
        found = type_dict(base).get(name)
        if found is not None:
            return found
    return None


def coroutine_of(task):
    """What a task runs."""
    return _C_TASK.get_coro(task) if issubclass(type(task), _C_TASK) else instance_dict(task).get("_coro")


def _callbacks_of(future):
    return (
        _c_callbacks(future)
        if issubclass(type(future), _C_FUTURE)
        else instance_dict(future).get("_callbacks")
    )


class Callables:
    """Answers `ends(callable)`, given where code comes from."""

    def __init__(self, origins):
        self._origins = origins

    def ends(self, thing, arguments=()):
        """The origins of all code that a call of `thing(*arguments)` would certainly run, the user's first.

        What is only at hand (in a closure, as an argument) counts when it is a callable; in a closure of a library
        only when it is the user's.
        """
        found, seen = [], set()
        pending = [(thing, True)] + [(argument, True) for argument in arguments if self._runs(argument)]
        while pending and len(seen) < _MOST:
            thing, certain = pending.pop(0)
            if thing is None or id(thing) in seen:
                continue
            seen.add(id(thing))
            origins, further = self._step(thing)
            found += [origin for origin in origins if certain or origin.kind == USER]
            pending += [(inner, certain and surely) for inner, surely in further]
        return sorted(dict.fromkeys(found), key=lambda origin: (origin.kind != USER, origin.kind == SERVICE))

    def _step(self, thing):
        """One unwrapping: the origins met, and (inner thing, whether it certainly runs)."""
        cls = type(thing)
        if cls is types.FunctionType:
            return self._function(thing)
        if cls is types.MethodType:
            origins, further = self._instance(thing.__self__)
            name = (
                text(getattr(thing.__func__, "__name__", None))
                if type(thing.__func__) is types.FunctionType
                else "?"
            )
            return [o._replace(name=o.name + "." + name) for o in origins], [(thing.__func__, True), *further]
        if cls in _BUILTIN:
            return self._builtin(thing)
        if cls in _SUSPENDED:
            return self._suspended(thing, *_SUSPENDED[cls])
        if issubclass(cls, functools.partial):
            arguments = [(argument, True) for argument in _partial_args(thing) if self._runs(argument)]
            return [], [(_partial_func(thing), True), *arguments]
        if issubclass(cls, (_C_FUTURE, _PY_FUTURE)):
            return [], [(entry[0], False) for entry in _callbacks_of(thing) or ()]
        if issubclass(cls, type):
            return [self._origins.of_class(thing)], []
        if cls in _DESCRIPTOR:
            return [self._origins.of_class(thing.__objclass__)._replace(name=text(thing.__name__))], []
        if class_name(cls) in _TASK_STEPS:
            return [Origin(SERVICE, "asyncio", "Task")], []
        return self._object(thing)

    def _function(self, function):
        origin = self._origins.of_code(function.__code__, function.__globals__)
        if origin.kind == USER:
            return [origin], []
        further = []
        for cell in function.__closure__ or ():
            try:
                further.append((cell.cell_contents, False))
            except ValueError:  # still empty
                pass
        return [origin], [
            (inner, surely) for inner, surely in further if self._runs(inner) or self._holder(inner)
        ]

    def _builtin(self, function):
        owner, name = function.__self__, text(function.__name__)
        cls = type(owner)
        if owner is None or issubclass(cls, types.ModuleType):
            return [self._origins.of_module(function.__module__, name)], []
        if issubclass(cls, (_C_TASK, _PY_TASK)):
            return [Origin(SERVICE, "asyncio", "Task")], []
        origin = self._origins.of_class(owner if issubclass(cls, type) else cls)
        return [origin._replace(name=origin.name + "." + name)], []

    def _suspended(self, thing, code, frame, waits_for):
        frame = getattr(thing, frame)
        origin = self._origins.of_code(getattr(thing, code), {} if frame is None else frame.f_globals)
        inner = getattr(thing, waits_for)
        return [origin], [(inner, True)] if type(inner) in _SUSPENDED else []

    def _instance(self, thing):
        """The object behind a bound method: whose it is, and the callable that it is known to hold."""
        if issubclass(type(thing), (type, types.ModuleType)):
            return [], []
        origin = self._origins.of_class(type(thing))
        held = [(instance_dict(thing).get(name), True) for name in self._holder(thing)]
        return ([origin] if origin.kind == USER else []), held

    def _object(self, thing):
        call = class_attribute(type(thing), "__call__")
        origins, further = self._instance(thing)
        if call is None:
            return origins, further
        wrapped = instance_dict(thing).get("__wrapped__")  # a cached function, which is an object of C
        return (origins or [self._origins.of_class(type(thing))]), [(wrapped, True), *further, (call, True)]

    @staticmethod
    def _holder(thing):
        cls = type(thing)
        for base in mro(cls):
            names = _HOLDERS.get(class_name(base))
            if names:
                return names
        return ()

    @staticmethod
    def _runs(thing):
        """Whether an argument is there to be called (an array or a module of torch is callable or not: no matter)."""
        cls = type(thing)
        return (
            cls in (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
            or cls in _SUSPENDED
            or issubclass(cls, (functools.partial, _C_FUTURE, _PY_FUTURE))
        )
