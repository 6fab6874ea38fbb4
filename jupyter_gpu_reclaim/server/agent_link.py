"""One agent's connection, once it has been admitted: what it last said, and questions to it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jupyter_gpu_reclaim.agent import protocol
from jupyter_gpu_reclaim.server.agent_status import AgentStatus, count, counts, parse_status

MAX_UNSENT_BYTES = 1 << 20  # a peer that reads nothing for so long is no agent any more


class LinkLost(Exception):
    """The agent is not there, or went away before it answered."""


class AgentLink:
    """One agent's connection: its last status, and requests to it. `pid` is the kernel's own process."""

    def __init__(self, kernel_id: str, pid: int, status: AgentStatus, writer: asyncio.StreamWriter) -> None:
        self.kernel_id = kernel_id
        self.pid = pid
        self.status = status
        self.reported = False  # has a status come in, or is all we know the phase of its hello?
        self.progress: tuple[int, int] | None = None  # bytes done, bytes in all, while a move is under way
        self._writer = writer
        self._ids = itertools.count(1)
        self._open_requests: dict[int, asyncio.Future[Mapping[str, Any]]] = {}

    async def ask(self, op: str, timeout: timedelta, **keys: Any) -> Mapping[str, Any]:
        """The agent's reply to `op`. Raises `LinkLost` when the connection ends first, TimeoutError after `timeout`."""
        request_id = next(self._ids)
        reply: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._open_requests[request_id] = reply
        try:
            self.tell(op, id=request_id, **keys)
            return await asyncio.wait_for(reply, timeout.total_seconds())
        finally:
            self._open_requests.pop(request_id, None)

    def tell(self, op: str, **keys: Any) -> None:
        """Send a message that has no reply. Raises `LinkLost`."""
        if self._writer.is_closing():
            raise LinkLost("the kernel's agent is not connected")
        self._writer.write(protocol.encode({"op": op, **keys}))
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.close()

    def take(self, message: Mapping[str, Any]) -> bool:
        """Take in one message; True if it changes what the server would do. Raises ValueError for nonsense.

        Unknown ops and replies to requests given up meanwhile are passed over.
        """
        match message["op"]:
            case "status":
                return self._take_status(parse_status(message))
            case "restore_wanted":
                return self._take_status(self._waiting(max(1, count(message.get("cells", 1)))))
            case "restore_unwanted":
                return self._take_status(self._waiting(0))
            case "room_wanted":
                return self._take_status(self._room_wanted(counts(message.get("gpus"))))
            case "ping" if not self._writer.is_closing():
                self.tell("pong")
            case "progress":
                self.progress = count(message.get("done_bytes")), count(message.get("total_bytes"))
            case "reply":
                reply = self._open_requests.get(count(message.get("re")))
                if reply is not None and not reply.done():
                    reply.set_result(message)
        return False

    def _waiting(self, number: int) -> AgentStatus:
        return replace(self.status, waiting=number)

    def _room_wanted(self, gpus: Mapping[str, int]) -> AgentStatus:
        since = (self.status.room_wanted_at or datetime.now(UTC)) if gpus else None
        return replace(self.status, room_wanted=gpus, room_wanted_at=since)

    def _take_status(self, new: AgentStatus) -> bool:
        old, self.status = self.status, new
        first, self.reported = not self.reported, True
        if new.phase is not old.phase:
            self.progress = None
        return (
            first
            or (new.phase, new.waiting, new.room_wanted) != (old.phase, old.waiting, old.room_wanted)
            or (new.running_since is None) != (old.running_since is None)
            or new.place_wanted_at != old.place_wanted_at
        )

    def close(self) -> None:
        """End the connection and fail what is still asked. May be called twice."""
        self._writer.transport.abort()
        for reply in self._open_requests.values():
            if not reply.done():
                reply.set_exception(LinkLost("the kernel's agent went away before it answered"))
