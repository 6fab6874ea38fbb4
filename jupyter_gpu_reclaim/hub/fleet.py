"""The servers heard of lately, and a bell for each that waits for news. In memory: all of it is pushed anew."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.fleet import FleetServer
from jupyter_gpu_reclaim.core.policy_rules import Subject

Key = tuple[str, str]
SILENT_AFTER = timedelta(seconds=40)
"""A server that was not heard of for so long no longer counts; each says something every 10 seconds."""


class Fleet:
    """By (user, server). Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._servers: dict[Key, FleetServer] = {}

    def __iter__(self) -> Iterator[FleetServer]:
        return iter(self._servers.values())

    def __len__(self) -> int:
        return len(self._servers)

    def get(self, key: Key) -> FleetServer | None:
        """The server, if it was heard of lately."""
        return self._servers.get(key)

    def put(self, server: FleetServer) -> None:
        """Its newest word."""
        self._servers[server.key] = server

    def drop(self, key: Key) -> None:
        """It has said that it ends."""
        self._servers.pop(key, None)

    def drop_silent(self, now: datetime) -> None:
        """Forget those that were not heard of for `SILENT_AFTER`."""
        for key in [key for key, one in self._servers.items() if now - one.seen_at > SILENT_AFTER]:
            del self._servers[key]

    def waiting(self) -> set[str]:
        """GPUs that some restore waits for in vain."""
        return {uuid for server in self for uuid in server.waiting}


class Bells:
    """Who waits for news is woken by its bell. A bell that nobody listens to costs nothing."""

    def __init__(self) -> None:
        self._listening: dict[Key, set[asyncio.Event]] = {}

    @property
    def listening(self) -> Counter[Key]:
        """How many wait, by server."""
        return Counter({key: len(events) for key, events in self._listening.items()})

    def ring(self, keys: Collection[Key] | None = None) -> None:
        """Wake those; None: everybody."""
        for key in tuple(self._listening) if keys is None else keys:
            for event in self._listening.get(key, ()):
                event.set()

    def hang(self, key: Key) -> asyncio.Event:
        """A bell of one's own, to be taken down."""
        event = asyncio.Event()
        self._listening.setdefault(key, set()).add(event)
        return event

    def take_down(self, key: Key, event: asyncio.Event) -> None:
        """It is no longer listened to."""
        events = self._listening.get(key, set())
        events.discard(event)
        if not events:
            self._listening.pop(key, None)


def subject_of(server: FleetServer) -> Subject:
    """Whom rules are asked for."""
    return Subject(
        user=server.user,
        groups=server.groups,
        server=server.server,
        profile=server.profile,
        gpus=frozenset(gpu.name for gpu in server.gpus.values()),
    )
