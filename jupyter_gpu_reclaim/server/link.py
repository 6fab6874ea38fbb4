"""The server's end of the agents' unix socket: who may speak for which kernel.

Whatever comes in is judged before it is used. A peer that is not our kernel's agent, or that says what the protocol
does not know, loses its connection and nothing else happens; an agent whose connection was lost comes back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from logging import LoggerAdapter
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.agent import protocol
from jupyter_gpu_reclaim.server.agent_link import AgentLink, LinkLost
from jupyter_gpu_reclaim.server.agent_status import AgentStatus, parse_phase
from jupyter_gpu_reclaim.server.processes import lineage
from jupyter_gpu_reclaim.server.socket_path import BoundSocket

HELLO_DEADLINE = timedelta(seconds=5)
_PEER = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED


class TurnedAway(Exception):
    """A peer that may not speak for the kernel it names; the message says why, and the peer is told."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a kernel about to start was given. `root_pid` tells its process id once it has one."""

    secret: str
    root_pid: Callable[[], int | None]
    at: datetime


class AgentLinks:
    """The listening socket and the connection of every agent, by kernel id.

    `on_change` is called with a kernel id, on the event loop, when a kernel starts or ends, when its agent comes or
    goes, and when that says something that changes what the server would do. `welcome` is sent to each agent:
    what `agent.protocol` says of it, but for the version.
    """

    def __init__(
        self,
        runtime_dir: Path,
        welcome: Mapping[str, Any],
        log: LoggerAdapter,
        on_change: Callable[[str], None],
    ) -> None:
        self._runtime_dir = runtime_dir
        self._welcome = dict(welcome)
        self._log = log
        self._on_change = on_change
        self._links: dict[str, AgentLink] = {}
        self._invitations: dict[str, Invitation] = {}
        self._turned_away: dict[str, str] = {}
        self._conversations: set[asyncio.Task[None]] = set()
        self._bound: BoundSocket | None = None
        self._server: asyncio.Server | None = None

    @property
    def path(self) -> Path:
        """Where agents connect to; only while started."""
        assert self._bound is not None, "not started"
        return self._bound.path

    async def start(self) -> None:
        """Listen. Raises OSError when no place for a socket can be found."""
        self._bound = BoundSocket(self._runtime_dir)
        self._server = await asyncio.start_unix_server(
            self._converse, sock=self._bound.socket, limit=protocol.MAX_LINE_BYTES
        )

    async def stop(self) -> None:
        """Stop listening, end every connection, take the socket away. Agents then restore by themselves."""
        if self._server is not None:
            self._server.close()
            self._server = None
        conversations = tuple(self._conversations)
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        if self._bound is not None:
            self._bound.remove()

    def invite(self, kernel_id: str, root_pid: Callable[[], int | None]) -> str:
        """The secret for a kernel about to start. What spoke for an earlier process of that kernel is forgotten."""
        self.forget(kernel_id)
        self._invitations[kernel_id] = Invitation(secrets.token_urlsafe(32), root_pid, datetime.now(UTC))
        return self._invitations[kernel_id].secret

    def forget(self, kernel_id: str) -> None:
        """The kernel's process is gone: drop its connection, its secret and what is remembered of it."""
        self._invitations.pop(kernel_id, None)
        self._turned_away.pop(kernel_id, None)
        link = self._links.pop(kernel_id, None)
        if link is not None:
            link.close()
        self._on_change(kernel_id)

    def link(self, kernel_id: str) -> AgentLink | None:
        """The connection of a kernel's agent, None while there is none."""
        return self._links.get(kernel_id)

    def all(self) -> tuple[AgentLink, ...]:
        """Every agent's connection."""
        return tuple(self._links.values())

    def pids(self) -> dict[int, str]:
        """Kernel ids by the process id of the kernel itself, for kernels with an agent."""
        return {link.pid: link.kernel_id for link in self._links.values()}

    def invited_at(self, kernel_id: str) -> datetime | None:
        """When the kernel was given its agent; None: it was not."""
        invitation = self._invitations.get(kernel_id)
        return invitation and invitation.at

    def turned_away(self, kernel_id: str) -> str | None:
        """Why the last agent that named this kernel was turned away, as a sentence."""
        return self._turned_away.get(kernel_id)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its first byte to its last. Ends for any reason without an exception."""
        task = asyncio.current_task()
        assert task is not None
        if self._server is None:  # accepted while stop() was at work
            writer.transport.abort()
            return
        self._conversations.add(task)
        link: AgentLink | None = None
        try:
            link = await self._admit(reader, writer)
            while line := await reader.readline():
                if link.take(protocol.decode(line)):
                    self._on_change(link.kernel_id)
                await asyncio.sleep(0)  # lines already buffered do not yield: others come in between
        except TurnedAway as refusal:
            self._log.warning("An agent was turned away: %s", refusal)
            with contextlib.suppress(OSError):
                writer.write(protocol.encode({"op": "rejected", "message": str(refusal)}))
                await asyncio.wait_for(writer.drain(), HELLO_DEADLINE.total_seconds())
        except (ValueError, RecursionError, OverflowError) as error:
            whose = f"the agent of kernel {link.kernel_id}" if link else "somebody who had not said hello"
            self._log.warning("Closed the connection of %s, which broke the protocol: %.200s", whose, error)
        except (OSError, LinkLost, TimeoutError, asyncio.CancelledError):
            pass  # a lost peer, no hello in time, or our own stop(): nothing to say
        finally:
            if link is not None:
                self._part(link)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._conversations.discard(task)

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AgentLink:
        """The link of an agent whose hello is in order; it replaces an earlier one of the same kernel."""
        line = await asyncio.wait_for(reader.readline(), HELLO_DEADLINE.total_seconds())
        if not line:
            raise ConnectionResetError("left without a hello")
        hello = protocol.decode(line)
        kernel_id, secret = hello.get("kernel_id"), hello.get("secret")
        if hello["op"] != "hello" or not isinstance(kernel_id, str) or not isinstance(secret, str):
            raise ValueError("the first line is no hello")
        try:
            pid = self._check(hello, kernel_id, secret, writer)
        except TurnedAway as refusal:
            if kernel_id in self._invitations:
                self._turned_away[kernel_id] = str(refusal)
            raise
        link = AgentLink(kernel_id, pid, AgentStatus(phase=parse_phase(hello.get("phase"))), writer)
        link.tell("welcome", version=protocol.VERSION, **self._welcome)
        former = self._links.pop(kernel_id, None)
        if former is not None:
            former.close()
        self._turned_away.pop(kernel_id, None)
        self._links[kernel_id] = link
        self._on_change(kernel_id)
        return link

    def _check(
        self, hello: Mapping[str, Any], kernel_id: str, secret: str, writer: asyncio.StreamWriter
    ) -> int:
        """The pid of a peer that may speak for the kernel. Raises `TurnedAway`."""
        invitation = self._invitations.get(kernel_id)
        expected = invitation.secret if invitation else secrets.token_urlsafe(32)
        if not hmac.compare_digest(secret.encode(), expected.encode()) or invitation is None:
            raise TurnedAway("its secret is not the one this kernel was started with.")
        if hello.get("version") != protocol.VERSION:
            raise TurnedAway(
                f"it speaks version {hello.get('version')!r:.20} of the protocol and this server {protocol.VERSION}; "
                "restart the kernel after an upgrade."
            )
        pid, uid = peer_of(writer)
        if uid != os.getuid():
            raise TurnedAway("it runs as another user than this server.")
        root_pid = invitation.root_pid()
        if root_pid is None or root_pid not in lineage(pid):
            raise TurnedAway(f"process {pid} is not part of the kernel's process tree (process {root_pid}).")
        return pid

    def _part(self, link: AgentLink) -> None:
        """The conversation is over; unless a newer one has taken its place, the kernel has no agent now."""
        link.close()
        if self._links.get(link.kernel_id) is link:
            del self._links[link.kernel_id]
        self._on_change(link.kernel_id)


def peer_of(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """Process id and user id at the other end of a unix socket, as the kernel of the system vouches for them."""
    peer = writer.get_extra_info("socket")
    pid, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid
