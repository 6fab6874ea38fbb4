"""The other end of the agents' socket, as a test plays it: real sockets, real credentials, whatever lines it likes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.agent import protocol
from jupyter_gpu_reclaim.server.agent_link import AgentLink
from jupyter_gpu_reclaim.server.link import AgentLinks

WELCOME = {
    "sample_seconds": 1.0,
    "orphan_seconds": 5.0,
    "host_buffer_seconds": 60.0,
    "host_reserve_bytes": 0,
    "verify_episodes": None,
    "harmless_modules": ["mine"],
    "room_wait_seconds": 30.0,
    "places": False,
}
LOG = logging.LoggerAdapter(logging.getLogger("links"))
DEADLINE_SECONDS = 20
_open: list[Peer] = []


class Changes:
    """The kernel ids that the links reported a change of."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._came = asyncio.Event()

    def note(self, kernel_id: str) -> None:
        """What `AgentLinks` calls."""
        self.seen.append(kernel_id)
        self._came.set()

    async def until(self, condition: Any) -> None:
        """Wait until `condition()` holds, looking again at each change."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await self._came.wait()
                self._came.clear()


@asynccontextmanager
async def listening(runtime_dir: Path) -> AsyncIterator[tuple[AgentLinks, Changes]]:
    """Links that listen, and stop at the end."""
    changes = Changes()
    links = AgentLinks(runtime_dir, WELCOME, LOG, changes.note)
    await links.start()
    try:
        yield links, changes
    finally:
        await links.stop()
        while _open:
            await _open.pop().leave()


class Peer:
    """One connection to the agents' socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, links: AgentLinks) -> Peer:
        """A connection that has said nothing yet."""
        peer = cls(*await asyncio.open_unix_connection(str(links.path)))
        _open.append(peer)
        return peer

    def say(self, op: str, **keys: Any) -> None:
        """Send one message."""
        self.writer.write(protocol.encode({"op": op, **keys}))

    def hello(self, kernel_id: str, secret: str, **keys: Any) -> None:
        """Send a hello, in order but for what `keys` change."""
        hello = {"version": protocol.VERSION, "kernel_id": kernel_id, "secret": secret, "pid": os.getpid(),
                 "python": "3.11", "ipykernel": "7.4", "phase": "resident"}  # fmt: skip
        self.say("hello", **{**hello, **keys})

    async def hear(self) -> dict[str, Any]:
        """The server's next message; {} when it has closed the connection."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                line = await self.reader.readline()
            except ConnectionError:
                return {}
        return json.loads(line) if line else {}

    async def gone(self) -> None:
        """Wait until the server has closed the connection, whatever it still says before."""
        while await self.hear():
            pass

    async def leave(self) -> None:
        """Close this end."""
        self.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def agent_of(links: AgentLinks, kernel_id: str, root_pid: int | None = None) -> tuple[Peer, AgentLink]:
    """A peer that the links have welcomed as this kernel's agent, with the link they keep of it."""
    secret = links.invite(kernel_id, lambda: root_pid or os.getpid())
    peer = await Peer.connect(links)
    peer.hello(kernel_id, secret)
    assert (await peer.hear())["op"] == "welcome"
    link = links.link(kernel_id)
    assert link is not None
    return peer, link
