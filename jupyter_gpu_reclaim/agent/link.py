"""The agent's connection to the Jupyter server: one unix socket, one reader thread, reconnecting for ever.

The reader never works on anything itself, so the server is always heard: during a move, and while a cell waits.
"""

import os
import socket
import struct
import sys
import threading
import time

from . import protocol

CONNECT_SECONDS = 5.0  # for the server to accept and to greet
SEND_SECONDS = 5.0  # a server that has not read for so long counts as gone
SHORTEST_BACKOFF_SECONDS = 0.05
LONGEST_BACKOFF_SECONDS = 1.0
REJECTED_BACKOFF_SECONDS = 30.0


class Link:
    """Says hello, hands every message of the server to `on_message`, and says when it is up (`on_up(welcome)`).

    `invitation` is what the server put into this kernel's environment: socket, kernel_id, secret. `phase` is asked for
    at each hello.
    """

    def __init__(self, invitation, phase, on_up, on_message, on_trouble):
        self._invitation = invitation
        self._phase = phase
        self._on_up = on_up
        self._on_message = on_message
        self._on_trouble = on_trouble
        self._sending = threading.Lock()
        self._socket = None
        self.up = False
        self._down_since = time.monotonic()
        self._asked_at = None  # since when a sign of life is owed; None: it is not

    def start(self):
        """Start the reader thread."""
        start_thread("gpu-reclaim-agent-link", self._stay_connected)

    def down_seconds(self):
        """For how long the server has not been there; 0.0 while it is."""
        return 0.0 if self.up else time.monotonic() - self._down_since

    def send(self, message):
        """Send a message; False when the server is not there (it is told everything again once it is)."""
        return self.up and self._send(message)

    def ask_for_sign_of_life(self, patience_seconds):
        """Ping the server, or hang up on one that has said nothing for so long since it was first asked.

        A stopped server keeps its socket open, and a new connection to it is accepted but never greeted.
        """
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > patience_seconds:
            self._hang_up()
            return
        self.send({"op": "ping"})

    def close_in_child(self):
        """In a forked child: let go of the socket, so that the server sees this kernel's end when it comes."""
        self.up = False
        if self._socket is not None:
            os.close(
                self._socket.detach()
            )  # close() would wait for the reader's file, which lives in the parent

    def _send(self, message):
        line = protocol.encode(message)
        with self._sending:
            try:
                self._socket.sendall(line)
            except (OSError, AttributeError):  # gone, or already taken away by the reader
                self._hang_up()
                return False
        return True

    def _hang_up(self):
        """Make the reader's next read end. Closing is the reader's, so that no number is reused under its hands."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass  # the other side was quicker

    def _stay_connected(self):
        backoff = SHORTEST_BACKOFF_SECONDS
        while True:
            began, rejected = time.monotonic(), False
            try:
                rejected = self._converse()
            except OSError:
                pass  # the server is not there, or gone: it may come back
            except Exception as error:
                self._on_trouble("The server was not understood: {!r:.200}".format(error))
            if self.up:
                self._down_since = time.monotonic()  # first: who sees it down reads since when
                self.up = False
            if time.monotonic() - began > LONGEST_BACKOFF_SECONDS:
                backoff = SHORTEST_BACKOFF_SECONDS
            time.sleep(REJECTED_BACKOFF_SECONDS if rejected else backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    def _converse(self):
        """One connection from hello to its end. True if the server rejected us."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            self._socket = connection
            try:
                connection.settimeout(CONNECT_SECONDS)
                connection.connect(self._invitation["socket"])
                with connection.makefile("rb") as lines:
                    return self._greet_and_listen(connection, lines)
            finally:
                with self._sending:
                    self._socket = None

    def _greet_and_listen(self, connection, lines):
        if not self._send(self._hello()):
            return False
        answer = _next(lines)
        if answer is None or answer["op"] != "welcome" or answer.get("version") != protocol.VERSION:
            return answer is not None
        # From here on reads wait as long as they must; sends keep their limit (struct timeval).
        connection.settimeout(None)
        limit = struct.pack("ll", int(SEND_SECONDS), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._asked_at = None
        self.up = True
        self._on_up(answer)
        while True:
            message = _next(lines)
            if message is None:
                return False
            self._asked_at = None
            try:
                self._on_message(message)
            except Exception as error:  # one bad message must not cost the connection
                self._on_trouble("Could not handle {!r:.40}: {!r:.200}".format(message["op"], error))

    def _hello(self):
        ipykernel = sys.modules.get("ipykernel")
        return {
            "op": "hello",
            "version": protocol.VERSION,
            "kernel_id": self._invitation["kernel_id"],
            "secret": self._invitation["secret"],
            "pid": os.getpid(),
            "python": sys.version.split()[0],
            "ipykernel": getattr(ipykernel, "__version__", None),
            "phase": self._phase(),
        }


def start_thread(name, target):
    """Start a daemon thread that debuggers leave alone."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.pydev_do_not_trace = True
    thread.is_pydev_daemon_thread = True
    thread.start()
    return thread


def _next(lines):
    """The next message, or None at the end. Raises ValueError, OSError."""
    line = lines.readline(protocol.MAX_LINE_BYTES + 1)
    if len(line) > protocol.MAX_LINE_BYTES:
        raise ValueError("a line longer than {} bytes".format(protocol.MAX_LINE_BYTES))
    return protocol.decode(line) if line else None
