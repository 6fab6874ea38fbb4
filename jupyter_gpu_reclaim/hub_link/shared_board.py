"""`PressureBoard` of the machine and the Hub together: what others wait for is seen, wherever they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from jupyter_gpu_reclaim.hub_link.link import HubLink
from jupyter_gpu_reclaim.ports import PressureBoard


class SharedBoard:
    """See `ports.PressureBoard`. Locks are the machine's alone. A Hub that is away changes nothing of it."""

    def __init__(self, node: PressureBoard, link: HubLink) -> None:
        self._node = node
        self._link = link

    @property
    def problem(self) -> str | None:
        """The machine's; the Hub's absence is no reason to worry a user."""
        return self._node.problem

    def waiting_elsewhere(self) -> Mapping[str, int]:
        """The greater of both for each GPU: one wait may be known from both sides."""
        here, there = self._node.waiting_elsewhere(), self._link.pressure
        return {uuid: max(here.get(uuid, 0), there.get(uuid, 0)) for uuid in here.keys() | there.keys()}

    def publish(self, waiting: Mapping[str, int], since: datetime | None) -> None:
        """Tell both. Called in a thread."""
        self._link.publish(waiting)
        self._node.publish(waiting, since)

    def claim(self, gpus: Collection[str]) -> AbstractAsyncContextManager[None]:
        """The machine's locks."""
        return self._node.claim(gpus)
