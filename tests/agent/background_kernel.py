"""A real kernel with the probe in it, for the tests of the judge."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from background_cases import Case
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

HERE = Path(__file__).parent
AGENT = HERE.parents[1] / "jupyter_gpu_reclaim" / "agent"
DEADLINE = 60
PRELUDE = f"""
import asyncio, functools, importlib, os, queue, sys, threading, time
sys.path.insert(0, {str(HERE)!r})
import background_probe
sys.path.remove({str(HERE)!r})
folder = {{folder!r}}
loop = asyncio.get_running_loop()
def _write(name, source, *parts):
    where = os.path.join(folder, *parts); os.makedirs(where, exist_ok=True)
    open(os.path.join(where, name + '.py'), 'w').write(source)
    sys.path.insert(0, where)
    try:
        sys.modules.pop(name, None); importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        sys.path.remove(where)
def project(name, source): return _write(name, source, 'project')
def library(name, source): return _write(name, source, 'lib', 'python3', 'site-packages')
background_probe.serve(get_ipython().kernel, {str(AGENT)!r}, {{address!r}})
"""


class JudgedKernel:
    """A kernel of one interpreter; runs cells and asks the judge in it between them."""

    def __init__(self, python: str, folder: Path) -> None:
        self._python, self._folder, self._starts = python, folder, 0
        self._manager: KernelManager | None = None
        self.start()

    def start(self) -> None:
        """Starts the kernel anew and puts the probe into it."""
        self.stop()
        self._starts += 1
        self._manager = KernelManager()
        argv = [self._python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self._manager._kernel_spec = KernelSpec(argv=argv, display_name="judged", language="python")
        self._manager.start_kernel(cwd=str(self._folder))
        self.client = self._manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE)
        address = str(self._folder / f"probe-{self._starts}")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            self.run(PRELUDE.format(folder=str(self._folder), address=address))
            listener.settimeout(DEADLINE)
            self._connection, _ = listener.accept()
        self._stream = self._connection.makefile("rw")

    def stop(self) -> None:
        """Ends the kernel, if there is one."""
        if self._manager is None:
            return
        self._stream.close()
        self._connection.close()
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()
        self._manager = None

    def run(self, code: str, **rest: Any) -> str:
        """Runs a cell to its end and returns what it printed; fails with the kernel's own words if it failed."""
        said: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                said.extend(content["traceback"])

        reply = self.client.execute_interactive(code, timeout=DEADLINE, output_hook=hear, **rest)
        assert reply["content"]["status"] == "ok", "".join(said)
        return "".join(said)

    def reply_to(self, cell: str) -> dict[str, Any]:
        """The reply to a cell that was sent with `client.execute`, once it has come."""
        while True:
            reply = self.client.get_shell_msg(timeout=DEADLINE)
            if reply["parent_header"].get("msg_id") == cell:
                return reply["content"]

    def ask(self, do: str, **rest: Any) -> Any:
        """One question to the probe."""
        self._connection.settimeout(DEADLINE)
        self._stream.write(json.dumps({"do": do, **rest}) + "\n")
        self._stream.flush()
        return json.loads(self._stream.readline())

    def control(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """A request on the control channel and its reply's content."""
        message = self.client.session.msg(kind, content)
        self.client.control_channel.send(message)
        while True:
            reply = self.client.get_control_msg(timeout=DEADLINE)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return reply["content"]

    def findings(self, case: Case, burst_seconds: float = 0.08) -> list[str]:
        """What the judge finds when `case` has been left behind; the kernel is as before afterwards, or a new one."""
        self.run("stop = threading.Event()")
        try:
            after = self._request(case.request) if case.request else None
            if case.setup:
                self.run(case.setup)
            found = self.ask("judge", burst_seconds=burst_seconds)
            if after is not None:
                after()
        finally:
            self._clean(case)
        return found

    def _clean(self, case: Case) -> None:
        try:
            self.run("stop.set()")
            if case.cleanup:
                self.run(case.cleanup)
        except BaseException:  # failed, or never came to an end: the next case gets a kernel of its own
            self.start()
            raise
        if case.spoils:
            self.start()
            return
        deadline = time.monotonic() + 3
        while self.ask("judge", burst_seconds=0.02):
            if time.monotonic() > deadline:
                self.start()  # something of this case stays: the next one gets a kernel of its own
                return

    def _request(self, request: str) -> Callable[[], object]:
        if request == "debug":
            return self._attach_debugger()
        subshell = self.control("create_subshell_request", {})["subshell_id"]
        if request == "busy subshell":
            self._send_to_subshell(subshell, "stop.wait()")
            self._wait_for_thread_in("stop.wait")
        elif request == "task in subshell":
            task = "async def f():\n    while not stop.is_set(): await asyncio.sleep(.05)\nt = asyncio.create_task(f())"
            self.reply_to(self._send_to_subshell(subshell, task))

        def after() -> None:
            self.run("stop.set()")
            self.control("delete_subshell_request", {"subshell_id": subshell})

        return after

    def _send_to_subshell(self, subshell: str, code: str) -> str:
        message = self.client.session.msg("execute_request", _silent_cell(code))
        message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def _wait_for_thread_in(self, what: str) -> None:
        """Until some thread runs the cell whose source is `what`."""
        look = (
            "print(any('wait' == f.f_code.co_name and f.f_locals.get('self') is stop._cond"
            " for f in sys._current_frames().values()))"
        )
        deadline = time.monotonic() + DEADLINE
        while "True" not in self.run(look):
            assert time.monotonic() < deadline, f"no thread runs {what}"

    def _attach_debugger(self) -> Callable[[], object]:
        first = {"adapterID": "", "clientID": "t", "locale": "", "pathFormat": "path"}
        for number, (command, arguments) in enumerate((("initialize", first), ("attach", {}))):
            reply = self.control("debug_request", _debug(number + 1, command, arguments))
            if command == "initialize":
                assert reply["success"], reply
        return lambda: self.control("debug_request", _debug(3, "disconnect", {"restart": False}))


def _silent_cell(code: str) -> dict[str, Any]:
    return {
        "code": code,
        "silent": True,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }


def _debug(seq: int, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "request", "seq": seq, "command": command, "arguments": arguments}
