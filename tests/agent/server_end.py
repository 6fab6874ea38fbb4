"""The server's end of the agents' socket, scripted by a test: real unix socket, real protocol, nothing decided."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.agent import protocol

ENDED = "(the connection ended)"  # stands in `heard` where an agent's connection came to its end
DEADLINE = 60.0  # generous: only a broken agent ever waits so long
Message = dict[str, Any]


class ServerEnd:
    """Listens at `path` for one agent at a time and keeps all it says in `heard`, in order."""

    def __init__(self, path: Path, *, sample_seconds: float = 0.1, orphan_seconds: float = 0.5) -> None:
        self.path = path
        self.welcome = {
            "sample_seconds": sample_seconds,
            "orphan_seconds": orphan_seconds,
            "host_buffer_seconds": 0.0,
            "host_reserve_bytes": 0,
            "verify_episodes": None,
            "harmless_modules": [],
            "room_wait_seconds": 30.0,
            "places": False,
        }
        self.rejects = False
        self.is_alive = True  # False: it reads and says nothing, as a server whose event loop hangs
        self.heard: list[Message] = []
        self._changed = threading.Condition()
        self._ids = itertools.count(1)
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def listen(self) -> None:
        """Begin to accept agents."""
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._spawn(self._accept, self._listener)

    def vanish(self) -> None:
        """Be gone, as after SIGKILL: no listener, no connection, no socket file."""
        self.path.unlink(missing_ok=True)
        for end in (self._listener, self._connection):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._listener = self._connection = None
        for thread in self._threads:
            thread.join(DEADLINE)
        self._threads.clear()

    def tell(self, op: str, **keys: Any) -> None:
        """Send a message that has no reply."""
        assert self._connection is not None
        self._connection.sendall(protocol.encode({"op": op, **keys}))

    def ask(self, op: str, **keys: Any) -> Message:
        """Send a request and wait for its reply."""
        return self.reply(self.ask_later(op, **keys))

    def ask_later(self, op: str, **keys: Any) -> int:
        """Send a request; its reply is `reply(id)`."""
        request = next(self._ids)
        self.tell(op, id=request, **keys)
        return request

    def reply(self, request: int) -> Message:
        """The reply to a request, waited for."""
        return self.wait_for(lambda message: message["op"] == "reply" and message["re"] == request)

    def wait_for(self, wanted: Callable[[Message], Any], since: int = 0) -> Message:
        """The first message from number `since` on that is `wanted`, waited for."""
        with self._changed:
            found = self._changed.wait_for(lambda: next(filter(wanted, self.heard[since:]), None), DEADLINE)
        assert found is not None, f"not heard within {DEADLINE} s; the last: {self.heard[-5:]}"
        return found

    def wait_for_op(self, op: str, since: int = 0, **keys: Any) -> Message:
        """The first message of this op, from number `since` on, with these keys; waited for."""
        return self.wait_for(lambda message: message["op"] == op and keys.items() <= message.items(), since)

    def _spawn(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self._connection = connection
                self._spawn(self._listen_to, connection)

    def _listen_to(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as lines:
            for line in lines:
                message = protocol.decode(line)
                if message["op"] == "hello" and self.is_alive:
                    self._greet(connection)
                elif message["op"] == "ping" and self.is_alive:
                    connection.sendall(protocol.encode({"op": "pong"}))
                with self._changed:
                    self.heard.append(message)
                    self._changed.notify_all()
                if self.rejects:
                    return
        with self._changed:
            self.heard.append({"op": ENDED})
            self._changed.notify_all()

    def _greet(self, connection: socket.socket) -> None:
        if self.rejects:
            connection.sendall(protocol.encode({"op": "rejected", "message": "not you"}))
        else:
            connection.sendall(
                protocol.encode({"op": "welcome", "version": protocol.VERSION, **self.welcome})
            )
