"""A real Jupyter server as a child process, and notebooks run in it over HTTP and websocket as a browser would."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

START_TIMEOUT_SECONDS = 60


class ServerFailed(RuntimeError):
    """The Jupyter server ended or did not answer; the message carries the end of its log."""


class CellFailed(RuntimeError):
    """A cell ended with an error; the message is the error as the kernel sent it."""


@dataclass
class JupyterServer:
    """`python -m jupyter_server` in `folder`, with every Jupyter folder inside it, so nothing of the user's is touched.

    `config` are `--Class.trait=value` settings. Use as an async context manager; leaving it ends server and kernels.
    """

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    enabled: bool = True  # False: a server without us, for runs that must not be touched

    async def __aenter__(self) -> JupyterServer:
        self.token = secrets.token_hex(16)
        self.url = ""
        self._runtime = self.folder / "runtime"
        self._notebooks: list[OpenNotebook] = []
        for name in ("runtime", "config", "data", "ipython"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._log_path = self.folder / "server.log"
        with self._log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(), cwd=self.folder, env=self._environment(), stdout=log, stderr=log,
                stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            self.url = await asyncio.wait_for(self._announced_url(), START_TIMEOUT_SECONDS)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    def _command(self) -> list[str]:
        settings = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": 0,
            "ServerApp.root_dir": str(self.folder),
            "ServerApp.allow_root": hasattr(os, "geteuid") and os.geteuid() == 0,
            "ServerApp.open_browser": False,
            "ServerApp.jpserver_extensions": repr({"jupyter_gpu_reclaim": self.enabled}),
            **self.config,
        }
        return [sys.executable, "-m", "jupyter_server", *(f"--{k}={v}" for k, v in settings.items())]

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "JUPYTER_TOKEN": self.token,
            "JUPYTER_RUNTIME_DIR": str(self._runtime),
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "IPYTHONDIR": str(self.folder / "ipython"),
            **self.environment,
        }

    async def _announced_url(self) -> str:
        """The server writes a file with its address shortly before it listens; nothing announces either."""
        while True:
            if self._process.returncode is not None:
                raise ServerFailed(f"the Jupyter server ended at start:\n{self.log_tail()}")
            for path in self._runtime.glob(f"jpserver-{self._process.pid}.json"):
                try:
                    announced = json.loads(path.read_text())
                    _, connection = await asyncio.open_connection("127.0.0.1", announced["port"])
                except (ValueError, KeyError, ConnectionRefusedError):  # half written, or not yet listening
                    continue
                connection.close()
                return announced["url"].rstrip("/")
            await asyncio.sleep(0.05)

    async def _end(self) -> None:
        for notebook in self._notebooks:
            notebook.close()
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), 20)
            except TimeoutError:
                os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-lines:])

    async def request(self, method: str, path: str, body: Any = None, accept: tuple[int, ...] = ()) -> Any:
        """The JSON reply of one REST call, None if it has no body. Raises HTTPClientError but for codes in `accept`."""
        request = HTTPRequest(
            self.url + path,
            method=method,
            headers={"Authorization": f"token {self.token}", "Content-Type": "application/json"},
            body=json.dumps(body) if body is not None else None,
            allow_nonstandard_methods=True,
            request_timeout=120,
        )
        try:
            reply = await AsyncHTTPClient().fetch(request)
        except HTTPClientError as error:
            if error.code not in accept or error.response is None:
                raise
            reply = error.response
        return json.loads(reply.body) if reply.body else None

    async def status(self) -> dict[str, Any]:
        """What GET /gpu-reclaim/api/status says."""
        return await self.request("GET", "/gpu-reclaim/api/status")

    async def open_notebook(self, path: str, kernel_name: str = "python3") -> OpenNotebook:
        """Starts a session for the notebook at `path` (relative to the folder) and connects to its kernel."""
        session = await self.request(
            "POST",
            "/api/sessions",
            {"path": path, "name": path, "type": "notebook", "kernel": {"name": kernel_name}},
        )
        notebook = OpenNotebook(self, session["kernel"]["id"], path)
        self._notebooks.append(notebook)
        await notebook.connect()
        return notebook


@dataclass
class OpenNotebook:
    """A notebook's kernel, spoken to through the server's websocket."""

    server: JupyterServer
    kernel_id: str
    path: str
    _socket: WebSocketClientConnection | None = None

    async def connect(self) -> None:
        """Opens the websocket and waits until the kernel answers."""
        self._session = uuid.uuid4().hex
        url = self.server.url.replace("http", "ws", 1)
        self._socket = await websocket_connect(
            HTTPRequest(
                f"{url}/api/kernels/{self.kernel_id}/channels?session_id={self._session}",
                headers={"Authorization": f"token {self.server.token}"},
            ),
            max_message_size=1 << 26,
        )
        await self._reply_to(self._send("kernel_info_request", {}))

    def _send(self, kind: str, content: dict[str, Any]) -> str:
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "username": "", "session": self._session,
                  "version": "5.4", "date": ""}  # fmt: skip
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell",
                   "buffers": []}  # fmt: skip
        assert self._socket is not None, "not connected"
        # A closed socket shows up as the end of the read that follows.
        self._socket.write_message(json.dumps(message))
        return header["msg_id"]

    async def _reply_to(self, msg_id: str) -> tuple[dict[str, Any], str]:
        """The reply's content and the text printed meanwhile, once the kernel is idle again."""
        printed: list[str] = []
        reply: dict[str, Any] | None = None
        idle = False
        assert self._socket is not None, "not connected"
        while reply is None or not idle:
            line = await self._socket.read_message()
            if line is None:
                raise ServerFailed(f"the kernel's websocket closed:\n{self.server.log_tail()}")
            message = json.loads(line)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "stream":
                    printed.append(content["text"])
                case "status":
                    idle = content["execution_state"] == "idle"
                case kind if kind.endswith("_reply"):
                    reply = content
        return reply, "".join(printed)

    async def run(self, code: str) -> str:
        """Runs one cell and returns what it printed. Raises `CellFailed`."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {},
                   "allow_stdin": False, "stop_on_error": True}  # fmt: skip
        reply, printed = await self._reply_to(self._send("execute_request", content))
        if reply["status"] != "ok":
            raise CellFailed(f"{self.path}: {reply.get('ename')}: {reply.get('evalue')}")
        return printed

    def close(self) -> None:
        """Closes the websocket; the kernel lives on."""
        if self._socket is not None:
            self._socket.close()

    async def holding(self) -> dict[str, Any] | None:
        """This kernel's row in the status, None before the server knows it."""
        rows = (await self.server.status())["kernels"]
        return next((row for row in rows if row["kernel_id"] == self.kernel_id), None)

    async def wait_for_phase(self, phase: str, timeout_seconds: float = 30) -> dict[str, Any]:
        """Asks the server until the kernel is in `phase`; raises `ServerFailed` with the last answer otherwise."""
        row: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(timeout_seconds):
                while (row := await self.holding()) is None or row["phase"] != phase:
                    await asyncio.sleep(0.1)  # the status has no push; a browser polls it too
        except TimeoutError:
            raise ServerFailed(
                f"{self.path} did not become {phase} in {timeout_seconds} s; last: {row}"
            ) from None
        return row
