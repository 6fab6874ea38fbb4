"""A real kernel with the agent in it, started the way the server starts one: two environment variables."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from jupyter_gpu_reclaim.agent import protocol

AGENT_FOLDER = Path(protocol.__file__).parent
DEADLINE = 120.0  # generous: only a hang reaches it


@dataclass
class Cell:
    """What came back from one executed cell: the reply's content, and what was shown."""

    reply: dict[str, Any]
    shown: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        """The reply's status: ok, error or aborted."""
        return self.reply["status"]

    @property
    def ename(self) -> str | None:
        """The name of the error, if there was one."""
        return self.reply.get("ename")

    @property
    def text(self) -> str:
        """What the cell printed or evaluated to."""
        return "".join(
            content.get("text") or content.get("data", {}).get("text/plain", "") for content in self.shown
        ).strip()


class RealKernel:
    """One kernel process and a client of it."""

    def __init__(self, python: str, folder: Path, socket: Path, **more_environment: str) -> None:
        spec = folder / "kernels" / "under-test"
        spec.mkdir(parents=True, exist_ok=True)
        argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": "under test", "language": "python"})
        )
        specs = KernelSpecManager(kernel_dirs=[str(folder / "kernels")], ensure_native_kernel=False)
        self.manager = KernelManager(kernel_name="under-test", kernel_spec_manager=specs)
        self.secret = "a secret of this test"
        invitation = {"socket": str(socket), "kernel_id": "k-1", "secret": self.secret, "pythonstartup": None}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "PYTHONSTARTUP": str(AGENT_FOLDER / "startup.py"),
            protocol.ENVIRONMENT_VARIABLE: json.dumps(invitation),
            **more_environment,
        }
        self.log = folder / "kernel.log"
        self.client: Any = None
        self._passed_over: dict[Any, list[dict[str, Any]]] = {}

    def start(self) -> RealKernel:
        """Start it and wait until it answers."""
        self.manager.transport = "ipc"
        self.manager.ip = str(self.log.parent / "ipc")
        self._log_file = self.log.open("ab")  # open for as long as the manager may start the kernel anew
        self.manager.start_kernel(env=self.environment, stdout=self._log_file, stderr=self._log_file)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE)
        return self

    def stop(self) -> None:
        """End it at once, whatever it is doing."""
        if self.client is not None:
            self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self._log_file.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.manager.provisioner.pid

    def run(self, code: str, **options: Any) -> Cell:
        """Execute and wait for the end."""
        return self.finish(self.client.execute(code, **options))

    def value(self, expression: str) -> Any:
        """The value of an expression in the kernel, through JSON."""
        cell = self.run(f"import json as _json; print(_json.dumps({expression}))")
        assert cell.status == "ok", cell.reply
        return json.loads(cell.text)

    def finish(self, request: str) -> Cell:
        """The reply to a request begun earlier, and all it showed; waits for both."""
        return Cell(self.reply(request), self._shown(request))

    def reply(self, request: str, channel: str = "shell") -> dict[str, Any]:
        """The content of the reply to a request, waited for; other replies on the way are passed over."""
        return self._next(getattr(self.client, f"{channel}_channel"), request)["content"]

    def send(
        self, message_type: str, content: dict[str, Any], channel: str = "shell", **metadata: Any
    ) -> str:
        """Send any message; gives its id."""
        message = self.client.session.msg(message_type, content, metadata=metadata)
        getattr(self.client, f"{channel}_channel").send(message)
        return message["header"]["msg_id"]

    def wait_until_idle(self, request: str) -> list[dict[str, Any]]:
        """Everything published for a request, until it has been dealt with."""
        return self._shown(request, everything=True)

    def interrupt(self) -> None:
        """SIGINT, as the server sends it."""
        self.manager.interrupt_kernel()

    def wait_until_gone(self) -> None:
        """Wait for the process to end."""
        deadline = time.monotonic() + DEADLINE
        while self.manager.is_alive():
            assert time.monotonic() < deadline, "the kernel did not end"
            time.sleep(0.02)

    def _shown(self, request: str, everything: bool = False) -> list[dict[str, Any]]:
        shown = []
        while True:
            message = self._next(self.client.iopub_channel, request)
            content, kind = message["content"], message["msg_type"]
            if kind == "status" and content["execution_state"] == "idle":
                return shown
            if everything or kind in ("stream", "execute_result", "display_data", "error"):
                shown.append({**content, "msg_type": kind})

    def _next(self, channel: Any, request: str) -> dict[str, Any]:
        """The next message for a request; those for others are kept for whoever asks for them."""
        passed_over = self._passed_over.setdefault(channel, [])
        for number, message in enumerate(passed_over):
            if message["parent_header"].get("msg_id") == request:
                return passed_over.pop(number)
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                message = channel.get_msg(timeout=1.0)
            except Empty:
                continue
            except ValueError as refused:
                if "Duplicate Signature" in str(refused):
                    continue  # an interrupt met ipykernel while it sent, and it sent that message twice
                raise
            if message["parent_header"].get("msg_id") == request:
                return message
            passed_over.append(message)
        raise AssertionError(f"nothing more came for request {request}")
