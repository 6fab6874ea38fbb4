"""Puts the gate in front of every request by which a kernel runs user code (ipykernel 6 and 7).

IPython's own events cannot do it: an exception in `pre_execute` or `pre_run_cell` is printed and the cell runs all the
same. So `do_execute` and the message handlers are wrapped, on this kernel only.
"""

import functools
import inspect
import re
import signal
import threading

from .gate import Passage, WaitEnded
from .protocol import RESIDENT
from .widget_state import asks_for_state, runs_library_code_only

INTERRUPTED = (
    "interrupted while waiting for GPU memory. "
    "The cell did not run and nothing was lost: run it again at any time."
)
INTERRUPTED_IN_LINE = (
    "interrupted while waiting for its turn on the GPU. "
    "The cell did not run and nothing was lost: run it again at any time."
)
ENDING = "the kernel is shutting down. The cell did not run."
ON_CONTROL = (
    "this kernel's GPU memory is reclaimed, and a request on the control channel must not wait for it. "
    "Nothing ran and nothing was lost: run any cell to bring the memory back."
)
COMM_REQUESTS = ("comm_open", "comm_msg", "comm_close")
OTHER_USER_CODE = ("apply_request", "clear_request")  # ipyparallel's; only in ipykernel 6

# Debugger commands that may evaluate user code (a `__repr__`, a property), and what a refusal carries in place of it.
EVALUATING_COMMANDS = {
    "inspectVariables": {"variables": []},
    "richInspectVariables": {"data": {}, "metadata": {}},
    "variables": {"variables": []},
    "evaluate": {"result": "", "variablesReference": 0},
    "setVariable": {"value": ""},
    "setExpression": {"value": ""},
    "copyToGlobals": {},
    "completions": {"targets": []},
}
# What ipykernel's debugger sends itself, as a silent cell, when a frontend switches it on.
DEBUGGER_START = re.compile(r'import debugpy;debugpy\.listen\(\("[^"]+",\s*\d+\)\)\s*')


class KernelHooks:
    """The wrapped entrances of one kernel. `install()` puts them in place, once."""

    def __init__(self, kernel, gate):
        self._kernel = kernel
        self._gate = gate

    def install(self):
        """Wrap the kernel's entrances. Those that this kernel does not have are left alone."""
        kernel = self._kernel
        kernel.do_execute = self._gated_execute(kernel.do_execute)
        kernel.do_shutdown = self._shutdown(kernel.do_shutdown)
        for handlers in (kernel.shell_handlers, kernel.control_handlers):
            for message_type in COMM_REQUESTS + OTHER_USER_CODE:
                self._wrap(handlers, message_type, self._gated_message)
            for message_type in ("complete_request", "inspect_request"):
                self._wrap(handlers, message_type, self._answered_empty)
        self._wrap(kernel.control_handlers, "debug_request", self._debug_request)

    @staticmethod
    def _wrap(handlers, message_type, wrapper):
        if message_type in handlers:
            handlers[message_type] = wrapper(message_type, handlers[message_type])

    def _gated_execute(self, do_execute):
        gate = self._gate

        @functools.wraps(do_execute)
        async def gated(code, silent, *args, **kwargs):
            if silent and self._is_held_back():
                reply = self._answer_without_user_code(code, args, kwargs)
                if reply is not None:
                    return reply
            passage = Passage("execute", counts_as_activity=not silent)
            try:
                try:
                    self._enter(passage)
                except WaitEnded as ended:
                    return self._error_reply(ended, silent)
                result = do_execute(code, silent, *args, **kwargs)
                return await result if inspect.isawaitable(result) else result
            finally:
                gate.inside.discard(passage)
                gate.left(passage)

        return gated

    def _gated_message(self, message_type, handler):
        gate = self._gate

        @functools.wraps(handler)
        async def gated(stream, ident, parent):
            content = parent["content"]
            quiet = asks_for_state(message_type, content)
            if self._is_held_back() and runs_library_code_only(self._kernel.shell, message_type, content):
                return await _settled(handler(stream, ident, parent))
            passage = Passage(message_type, counts_as_activity=not quiet)
            try:
                try:
                    self._enter(passage)
                except WaitEnded as ended:
                    # comm messages have no reply: the error is published all the same
                    self._error_reply(ended, silent=False)
                    return None
                return await _settled(handler(stream, ident, parent))
            finally:
                gate.inside.discard(passage)
                gate.left(passage)

        return gated

    def _answered_empty(self, message_type, handler):
        gate, kernel = self._gate, self._kernel

        @functools.wraps(handler)
        async def gated(stream, ident, parent):
            passage = Passage(message_type)
            try:
                if gate.try_enter(passage):
                    return await _settled(handler(stream, ident, parent))
            finally:
                gate.inside.discard(passage)
            reply = {"status": "ok", "metadata": {}}
            if message_type == "complete_request":
                position = parent["content"].get("cursor_pos", 0)
                reply.update(matches=[], cursor_start=position, cursor_end=position)
            else:
                reply.update(found=False, data={})
            kernel.session.send(stream, message_type.replace("request", "reply"), reply, parent, ident)
            return None

        return gated

    def _debug_request(self, message_type, handler):
        gate, kernel = self._gate, self._kernel

        @functools.wraps(handler)
        async def gated(stream, ident, parent):
            command = parent["content"].get("command")
            # "initialize" waits for the main thread, and with it the whole control channel: not behind a waiting cell
            starts_behind_a_wait = command == "initialize" and gate.waiting
            if command not in EVALUATING_COMMANDS and not starts_behind_a_wait:
                return await _settled(handler(stream, ident, parent))
            passage = Passage(message_type)
            try:
                if not starts_behind_a_wait and gate.try_enter(passage):
                    return await _settled(handler(stream, ident, parent))
            finally:
                gate.inside.discard(passage)
            kernel.session.send(stream, "debug_reply", _debug_refusal(parent["content"]), parent, ident)
            return None

        return gated

    def _shutdown(self, do_shutdown):
        @functools.wraps(do_shutdown)
        def ending(*args, **kwargs):
            self._gate.end_all_waits_for_good(ENDING)
            return do_shutdown(*args, **kwargs)

        return ending

    def _enter(self, passage):
        """Pass the gate, or raise WaitEnded. An interrupt that did not meet a wait stays what it is."""
        if threading.current_thread() is getattr(self._kernel, "control_thread", None):
            if not self._gate.try_enter(passage):
                passage.counts_as_activity = False
                raise WaitEnded("GPURestoreNeeded", ON_CONTROL)
            return
        try:
            self._gate.enter(passage)
        except WaitEnded:
            passage.counts_as_activity = False
            _ignore_interrupts()
            raise
        except KeyboardInterrupt:
            passage.counts_as_activity = False
            if not passage.waited:
                raise
            _ignore_interrupts()
            sentence = INTERRUPTED_IN_LINE if self._gate.phase == RESIDENT else INTERRUPTED
            raise WaitEnded("GPURestoreInterrupted", sentence) from None

    def _is_held_back(self):
        """Whether user code would have to wait: for the bytes, or for a running place."""
        return self._gate.phase != RESIDENT or self._gate.lacks_place()

    def _answer_without_user_code(self, code, args, kwargs):
        """The reply to a silent request that a closed gate need not hold back, or None when it must."""
        if not code.strip() and not args and not kwargs.get("user_expressions"):
            return self._reply("ok")
        if DEBUGGER_START.fullmatch(code):
            try:
                exec(code, {"__name__": "debugger_start"})  # its own namespace, no hooks, no transformers
            except Exception as error:
                self._kernel.log.warning("The debugger could not start: %r", error)
                return self._reply("error", ename=type(error).__name__, evalue=str(error), traceback=[])
            return self._reply("ok")
        return None

    def _error_reply(self, ended, silent):
        sentence = str(ended)
        error = {"ename": ended.ename, "evalue": sentence, "traceback": [ended.ename + ": " + sentence]}
        kernel = self._kernel
        if not silent:
            kernel.send_response(kernel.iopub_socket, "error", error, ident=kernel._topic("error"))
        return self._reply("error", **error)

    def _reply(self, status, **more):
        count = self._kernel.execution_count
        return dict(status=status, execution_count=count, user_expressions={}, payload=[], **more)


def _ignore_interrupts():
    """Until this request is over, when ipykernel puts back the handler that it has between requests: ignoring, too.

    Nothing is left to be interrupted, and a second signal would meet ipykernel outside its own guard, where it ends
    the kernel: of 80 bursts of signals one or more did. (A cell that is interrupted at work takes so long to print its
    traceback, inside the guard, that the same bursts never did.)
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


async def _settled(result):
    return await result if inspect.isawaitable(result) else result


def _debug_refusal(request):
    command = request.get("command")
    return {
        "type": "response",
        "seq": request.get("seq", 0),
        "request_seq": request.get("seq", 0),
        "success": False,
        "command": command,
        "message": "This kernel's GPU memory is reclaimed; run a cell to bring it back, then look again.",
        "body": EVALUATING_COMMANDS.get(command, {}),
    }
