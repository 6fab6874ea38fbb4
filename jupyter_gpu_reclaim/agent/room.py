"""Room on the GPU that running code could not allocate: asks the server for it while the allocation waits.

The allocating thread waits in C (native/ask_for_room.h says why), connected to the one thread here by a socket, and is
told single bytes. So nothing of this can be torn apart by an interrupt, and everything ends a wait that should: an
interrupt, the time limit, a server or an agent that is gone.
"""

import os
import selectors
import socket
import struct
import time

from .protocol import RESIDENT
from .torch_offload import Unsupported, gpu_with_room

WAIT_ON, TRY_AGAIN, GIVE_UP = b".", b"1", b"0"
BEAT_SECONDS = 0.1  # while somebody waits; far below native/ask_for_room.h's ROOM_SILENCE_MS
HELLO_SECONDS = 1.0
MOST_LINE_BYTES = 128
_PEER = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED


class Wish:
    """So many bytes wanted of one GPU: by an allocation that waits at the other end of `connection`, or (None) soon."""

    __slots__ = ("connection", "nbytes", "since_at", "until", "uuid", "waited_seconds")

    def __init__(self, uuid, nbytes, waited_seconds, limit_seconds, connection=None):
        self.uuid = uuid
        self.nbytes = nbytes
        self.connection = connection
        self.since_at = time.time() - waited_seconds
        self.until = time.monotonic() + limit_seconds - waited_seconds
        self.waited_seconds = 0.0  # once it has been given up


def bytes_by_gpu(wishes):
    """{uuid: bytes}"""
    gpus = {}
    for wish in wishes:
        gpus[wish.uuid] = gpus.get(wish.uuid, 0) + wish.nbytes
    return gpus


class Room:
    """The allocations of this kernel that wait for room. `on_change` is called when what is wanted has changed.

    `wait_seconds` is how long one waits at most; 0 until the server has said: none does. A request of the thread whose
    system id `control_thread()` gives never waits, as nothing may on a kernel's control channel.
    """

    def __init__(self, gate, link, control_thread, on_change, note):
        self._gate = gate
        self._link = link
        self._control_thread = control_thread
        self._on_change = on_change
        self._note = note
        self._wishes = {}  # Wish → True, in order of arrival
        self._interrupted_at = 0.0
        self._listener = None
        self._selector = selectors.DefaultSelector()
        self._rouse, self._roused = socket.socketpair()
        self._selector.register(self._roused, selectors.EVENT_READ)
        self.wait_seconds = 0.0
        self.waited_in_vain = None  # the last `Wish` of an allocation that was given up

    def listen(self):
        """Take the name that allocators of this process look for. Without it their errors come as they would have."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind("\0jupyter_gpu_reclaim.room.{}".format(os.getpid()))
            listener.listen()
        except OSError as error:
            listener.close()
            self._note("Allocations of this kernel cannot wait for room: {}.".format(error))
            return
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self):
        """Serve those who wait. Never returns; runs on a thread of its own."""
        while True:
            for key, _ in self._selector.select(BEAT_SECONDS if self._wishes else None):
                try:
                    self._serve(key.fileobj, key.data)
                except Exception as error:  # one request must not cost the next its answer
                    self._note("A request for room could not be dealt with: {!r:.200}".format(error))
                    time.sleep(BEAT_SECONDS)  # what fails may fail again at once, for ever
            self._look_after_waits()

    # ---- for the server's words, on the link's thread

    def admit(self):
        """There is room now: what waits tries again."""
        for wish in list(self._wishes):
            self._answer(wish, TRY_AGAIN)

    def end_waits(self, interrupted):
        """What waits gets its error now; after an interrupt nothing waits any more that user code at work asks for."""
        if interrupted:
            self._interrupted_at = time.time()
        for wish in list(self._wishes):
            self._answer(wish, GIVE_UP)

    # ---- for the reporter

    def wishes(self):
        """All that waits, in order of arrival. Who is admitted and finds no room comes back as a new wish."""
        return list(self._wishes)

    def want_for_the_next_try(self, index, nbytes):
        """Running code has failed to allocate, and nothing waits: have room made in case it is run again.

        Whether that was said.
        """
        uuid = gpu_with_room(index, nbytes) if self.wait_seconds and self._may_wait() else None
        if uuid is None:
            return False
        self._wishes[Wish(uuid, nbytes, 0.0, self.wait_seconds)] = True
        _tell(self._rouse, WAIT_ON)  # so that its end is seen
        self._on_change()
        return True

    def close_in_child(self):
        """In a forked child: let go of the name, which is the parent's."""
        self._wishes = {}
        if self._listener is not None:
            self._listener.close()

    # ---- the thread

    def _serve(self, connection, wish):
        if connection is self._listener:
            self._accept()
            return
        if connection is self._roused:
            connection.recv(MOST_LINE_BYTES)
            return
        try:
            is_gone = not connection.recv(MOST_LINE_BYTES)
        except OSError:
            is_gone = True
        if is_gone:
            self._selector.unregister(connection)
            connection.close()
            if self._wishes.pop(wish, None):  # interrupted, or out of patience with us
                self._interrupted_at = time.time()
                self._on_change()

    def _accept(self):
        connection, _ = self._listener.accept()
        try:
            wish = self._wish_of(connection)
        except (OSError, ValueError, Unsupported):
            wish = None
        if wish is None:
            connection.close()  # which says: give up
            return
        self._selector.register(connection, selectors.EVENT_READ, wish)
        self._wishes[wish] = True
        self._on_change()

    def _wish_of(self, connection):
        """The wish of a thread of this process that may wait, else None. Raises OSError, ValueError, Unsupported."""
        pid, _, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if pid != os.getpid():
            return None
        connection.settimeout(HELLO_SECONDS)
        index, nbytes, waited, thread = connection.recv(MOST_LINE_BYTES).split()
        if int(thread) == self._control_thread() or not self._may_wait():
            return None
        uuid = gpu_with_room(int(index), int(nbytes))
        limit, waited = self.wait_seconds, float(waited)
        return Wish(uuid, int(nbytes), waited, limit, connection) if uuid and waited < limit else None

    def _may_wait(self):
        """Whether user code is at work that nobody has interrupted, and a server is there to make room for it.

        The agent's own allocations come with the gate closed, and so never wait.
        """
        gate = self._gate
        if gate.phase != RESIDENT or gate.is_ending or not self._link.up:
            return False
        running_since_at = gate.running_since_at()
        return running_since_at is not None and running_since_at > self._interrupted_at

    def _look_after_waits(self):
        now = time.monotonic()
        for wish in list(self._wishes):
            waits = wish.connection is not None
            if now >= wish.until or (waits and not self._may_wait()):
                self._answer(wish, GIVE_UP)
            elif waits:
                _tell(wish.connection, WAIT_ON)

    def _answer(self, wish, word):
        """The last word; the other end then hangs up."""
        if self._wishes.pop(wish, None):
            if wish.connection is not None:
                if word == GIVE_UP:
                    wish.waited_seconds = time.time() - wish.since_at
                    self.waited_in_vain = wish
                _tell(wish.connection, word)
            self._on_change()


def _tell(connection, word):
    try:
        connection.send(word)
    except OSError:
        pass  # it has hung up already: the selector says so
