"""A front end as a browser is one: it sends whatever it likes at any time and files what comes back by its request."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer

PATIENCE_SECONDS = 60


class FrontEnd:
    """One websocket to one kernel. `messages` maps each request's id to what was answered, in order of arrival."""

    def __init__(self, server: JupyterServer, kernel_id: str) -> None:
        self.server = server
        self.kernel_id = kernel_id
        self.messages: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
        self._session = uuid.uuid4().hex
        self._arrived = asyncio.Condition()

    @classmethod
    async def with_kernel(cls, server: JupyterServer, setup: str) -> FrontEnd:
        """Connected to a new kernel in which the cell `setup` has run."""
        kernel = await server.request("POST", "/api/kernels", {"name": "python3"})
        front_end = await cls(server, kernel["id"]).__aenter__()
        await front_end.run(setup)
        return front_end

    async def __aenter__(self) -> FrontEnd:
        """Opens the websocket and asks for the kernel's info, as every page does."""
        url = self.server.url.replace("http", "ws", 1)
        self._socket = await websocket_connect(
            HTTPRequest(
                f"{url}/api/kernels/{self.kernel_id}/channels?session_id={self._session}",
                headers={"Authorization": f"token {self.server.token}"},
            )
        )
        self._reader = asyncio.create_task(self._read())
        await self.reply(self.send("kernel_info_request", {}))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._socket.close()
        await self._reader  # ends with the websocket

    async def _read(self) -> None:
        while (line := await self._socket.read_message()) is not None:
            message = json.loads(line)
            async with self._arrived:
                self.messages[message["parent_header"].get("msg_id")].append(message)
                self._arrived.notify_all()

    def send(
        self, kind: str, content: dict[str, Any], channel: str = "shell", subshell_id: str | None = None
    ) -> str:
        """Sends a request and returns its id at once."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "username": "", "session": self._session,
                  "version": "5.4", "date": "", "subshell_id": subshell_id}  # fmt: skip
        message = {"header": header, "parent_header": {}, "metadata": {"version": "1.0.0"}, "content": content,
                   "channel": channel, "buffers": []}  # fmt: skip
        self._socket.write_message(json.dumps(message))
        return header["msg_id"]

    def execute(
        self, code: str, *, silent: bool = False, stdin: bool = False, subshell_id: str | None = None
    ) -> str:
        """Sends a cell and returns its id at once."""
        content = {"code": code, "silent": silent, "store_history": not silent, "user_expressions": {},
                   "allow_stdin": stdin, "stop_on_error": True}  # fmt: skip
        return self.send("execute_request", content, subshell_id=subshell_id)

    async def until(self, found: Callable[[], Any]) -> Any:
        """The first true answer of `found()`, asked again with each message that arrives."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._arrived:
            await self._arrived.wait_for(found)
        return found()

    async def reply(self, request: str) -> dict[str, Any]:
        """The content of the reply to a request, once the kernel has gone idle over it."""

        def ended() -> list[dict[str, Any]]:
            states = [m["content"]["execution_state"] for m in self.of(request, "status")]
            return "idle" in states and [
                m for m in self.messages[request] if m["msg_type"].endswith("_reply")
            ]

        return (await self.until(ended))[0]["content"]

    def of(self, request: str, kind: str) -> list[dict[str, Any]]:
        """What was answered to a request and is of this kind."""
        return [message for message in self.messages[request] if message["msg_type"] == kind]

    def printed(self, request: str) -> str:
        """What a cell printed so far."""
        return "".join(message["content"]["text"] for message in self.of(request, "stream"))

    async def run(self, code: str) -> str:
        """Runs a cell to its end and returns what it printed; an error in it is an AssertionError here."""
        request = self.execute(code)
        reply = await self.reply(request)
        assert reply["status"] == "ok", reply
        return self.printed(request)

    async def row(self) -> dict[str, Any]:
        """This kernel in the server's status."""
        rows = (await self.server.status())["kernels"]
        return next((row for row in rows if row["kernel_id"] == self.kernel_id), {})

    async def row_where(self, **wanted: Any) -> dict[str, Any]:
        """This kernel in the status, once these keys have these values."""
        row: dict[str, Any] = {}
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while {key: row.get(key) for key in wanted} != wanted:
                    row = await self.row()
                    await asyncio.sleep(0.03)  # the status has no push
        except TimeoutError:
            raise AssertionError(f"never {wanted}: {row}") from None
        return row

    async def ask_to_reclaim(self) -> dict[str, Any]:
        """The answer to one request for this kernel's GPU: it has a "decision", or says why not."""
        path = f"/gpu-reclaim/api/kernels/{self.kernel_id}/reclaim"
        return await self.server.request("POST", path, accept=(409,))

    async def reclaim(self) -> dict[str, Any]:
        """Asks for this kernel's GPU until it is reclaimed; its row in the status then."""
        answer: dict[str, Any] = {}
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (answer := await self.ask_to_reclaim()).get("reason") != "already_reclaimed":
                    await asyncio.sleep(0.03)  # right after a cell the last samples are still of its work
        except TimeoutError:
            raise AssertionError(f"never reclaimed: {answer}") from None
        return await self.row_where(phase="reclaimed", waiting=0)

    async def refusal(self, reason: str, naming: str = "") -> None:
        """Asks for this kernel's GPU until it is refused for this reason, in a sentence with `naming` in it.

        Until the agent has reported, an order may go out: the agent's own look then refuses it, and nothing moves.
        """
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer: dict[str, Any] = {}
            while answer.get("reason") != reason or naming not in answer["message"]:
                answer = await self.ask_to_reclaim()
                assert (await self.row())["phase"] in ("resident", "reclaiming"), answer
                await asyncio.sleep(0.03)
