"""What an administrator is shown of a fleet: machines with their GPUs, who holds what, who waits, what came back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from jupyter_gpu_reclaim.core.fleet import FleetKernel, FleetServer
from jupyter_gpu_reclaim.core.model import Gpu, Holding, Phase, Snapshot


class State(StrEnum):
    """What a kernel looks like to people, in words as in the sidebar; its phase is only where its bytes are."""

    LOST = "lost"
    WAITING = "waiting"
    TROUBLE = "trouble"
    RESTORING = "restoring"
    RECLAIMING = "reclaiming"
    RUNNING = "running"
    RESIDENT = "resident"
    KEPT = "kept"
    LEFT_ALONE = "left-alone"
    RECLAIMED = "reclaimed"
    EMPTY = "empty"


BADGES = {
    State.LOST: "lost",
    State.WAITING: "waiting",
    State.TROUBLE: "tried again soon",
    State.RESTORING: "restoring",
    State.RECLAIMING: "reclaiming",
    State.RUNNING: "running",
    State.RESIDENT: "on the GPU",
    State.KEPT: "kept",
    State.LEFT_ALONE: "left alone",
    State.RECLAIMED: "reclaimed",
    State.EMPTY: "nothing on the GPU",
}
_BUSY = {"running", "gpu_busy"}
_SETTLED = {
    "recently_active", "cooldown", "thrashing", "already_resident", "turn", "in_flight", "dry_run"
}  # fmt: skip
_MOVING = {Phase.RECLAIMING: State.RECLAIMING, Phase.RESTORING: State.RESTORING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One kernel on one GPU. `held_bytes` is what it has there now; 0 where its data was given back."""

    server: FleetServer
    kernel: FleetKernel
    state: State
    held_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCard:
    """One GPU, as the server that was heard of last sees it."""

    gpu: Gpu
    seen_at: datetime
    holders: tuple[Holder, ...]  # by what they hold, the most first; none with nothing
    given_back_bytes: int
    waited_bytes: int  # for which restores wait in vain

    @property
    def held_bytes(self) -> int:
        """What these kernels hold."""
        return sum(holder.held_bytes for holder in self.holders)

    @property
    def others_bytes(self) -> int:
        """What is used by nobody who is shown: contexts, and processes that are no kernels."""
        return max(0, self.gpu.used_bytes - self.held_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One node with its GPUs."""

    node: str
    cards: tuple[GpuCard, ...]
    servers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The fleet in one line."""

    servers: int
    kernels: int
    total_bytes: int
    held_bytes: int
    given_back_bytes: int
    waiting: int  # kernels whose code waits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    """One server in a table."""

    server: FleetServer
    held_bytes: int
    given_back_bytes: int
    kernels: int
    waiting: int


def state_of(kernel: FleetKernel, now: datetime) -> State:
    """The kernel's state for people."""
    if kernel.phase in (Phase.LOST, Phase.GONE):
        return State.LOST
    if kernel.phase in _MOVING:
        return _MOVING[kernel.phase]
    if kernel.decision.act == "wait":
        return State.WAITING
    if kernel.decision.reason == "retry_later":
        return State.TROUBLE
    if kernel.phase is Phase.RECLAIMED:
        return State.RECLAIMED
    if kernel.footprint_bytes == 0:
        return State.EMPTY
    if kernel.running_since is not None or kernel.decision.reason in _BUSY:
        return State.RUNNING
    if kernel.pinned_until is not None and kernel.pinned_until > now:
        return State.KEPT
    settled = kernel.decision.reason in _SETTLED or kernel.decision.act != "keep"
    return State.RESIDENT if settled else State.LEFT_ALONE


def by_node(servers: Iterable[FleetServer]) -> dict[str, list[FleetServer]]:
    """The servers of each node."""
    found: dict[str, list[FleetServer]] = defaultdict(list)
    for server in servers:
        found[server.node].append(server)
    return found


def machines(servers: Iterable[FleetServer], now: datetime) -> list[Machine]:
    """Each node with its GPUs, by name."""
    return [
        Machine(node=node, cards=tuple(_cards(here, now)), servers=len(here))
        for node, here in sorted(by_node(servers).items())
    ]


def idle_holders(servers: Iterable[FleetServer], now: datetime, count: int) -> list[Holder]:
    """The kernels that have kept most memory idle for longest: bytes times time, the most first."""

    def unused(holder: Holder) -> float:
        assert holder.kernel.idle_since is not None  # as chosen below
        return holder.held_bytes * (now - holder.kernel.idle_since).total_seconds()

    idle = [
        Holder(server=server, kernel=kernel, state=state_of(kernel, now), held_bytes=kernel.footprint_bytes)
        for server in servers
        for kernel in server.kernels
        if kernel.idle_since is not None
    ]
    return sorted(idle, key=unused, reverse=True)[:count]


def waiting(servers: Iterable[FleetServer], now: datetime) -> list[Holder]:
    """Kernels whose code waits, whoever has waited longest first."""
    found = [
        Holder(server=server, kernel=kernel, state=State.WAITING, held_bytes=0)
        for server in servers
        for kernel in server.kernels
        if state_of(kernel, now) is State.WAITING
    ]
    return sorted(found, key=lambda holder: holder.kernel.restore_wanted_at or now)


def totals(servers: Iterable[FleetServer], now: datetime) -> Totals:
    """The fleet in one line; a GPU that several servers see counts once."""
    fleet = tuple(servers)
    kernels = [kernel for server in fleet for kernel in server.kernels]
    gpus = {(server.node, gpu.uuid): gpu.total_bytes for server in fleet for gpu in server.gpus.values()}
    return Totals(
        servers=len(fleet),
        kernels=len(kernels),
        total_bytes=sum(gpus.values()),
        held_bytes=sum(kernel.footprint_bytes for kernel in kernels if kernel.holds),
        given_back_bytes=sum(map(_given_back, kernels)),
        waiting=sum(state_of(kernel, now) is State.WAITING for kernel in kernels),
    )


def server_rows(servers: Iterable[FleetServer], now: datetime, order: str, text: str = "") -> list[ServerRow]:
    """A table of the servers whose user's name has `text` in it, by "user", "held", "given_back" or "waiting"."""
    rows = [
        ServerRow(
            server=server,
            held_bytes=sum(kernel.footprint_bytes for kernel in server.kernels if kernel.holds),
            given_back_bytes=sum(map(_given_back, server.kernels)),
            kernels=len(server.kernels),
            waiting=sum(state_of(kernel, now) is State.WAITING for kernel in server.kernels),
        )
        for server in servers
        if text.casefold() in server.user.casefold()
    ]
    keys = {
        "held": lambda row: -row.held_bytes,
        "given_back": lambda row: -row.given_back_bytes,
        "waiting": lambda row: -row.waiting,
    }
    rows.sort(key=lambda row: row.server.key)
    return rows if order == "user" else sorted(rows, key=keys[order])


def snapshot_of(servers: Sequence[FleetServer], now: datetime) -> Snapshot:
    """What the servers of one node hold together, as far as samples over time need it."""
    return Snapshot(
        taken_at=now,
        gpus=tuple(seer.gpus[uuid] for uuid, seer in sorted(_newest(servers).items())),
        holdings=tuple(_holding(server, kernel) for server in servers for kernel in server.kernels),
        host_available_bytes=None,
    )


def _holding(server: FleetServer, kernel: FleetKernel) -> Holding:
    return Holding(
        kernel_id=kernel.kernel_id,
        label=kernel.label,
        owner=server.user,
        running_since=kernel.running_since,
        last_active_at=kernel.last_active_at,
        background_work=kernel.background_work,
        gpu_busy=kernel.gpu_busy,
        phase=kernel.phase,
        footprint=kernel.footprint,
        mechanism=kernel.mechanism,
        waiting=kernel.waiting,
    )


def _newest(servers: Iterable[FleetServer]) -> dict[str, FleetServer]:
    """Each GPU, and the server that was heard of last of those that see it."""
    newest: dict[str, FleetServer] = {}
    for server in servers:
        for uuid in server.gpus:
            if uuid not in newest or server.seen_at > newest[uuid].seen_at:
                newest[uuid] = server
    return newest


def _cards(servers: Sequence[FleetServer], now: datetime) -> Iterable[GpuCard]:
    for uuid, seer in sorted(_newest(servers).items()):
        here = [
            (server, kernel) for server in servers for kernel in server.kernels if uuid in kernel.footprint
        ]
        holders = [
            Holder(
                server=server,
                kernel=kernel,
                state=state_of(kernel, now),
                held_bytes=kernel.footprint[uuid],
            )
            for server, kernel in here
            if kernel.holds and kernel.footprint[uuid] > 0
        ]
        yield GpuCard(
            gpu=seer.gpus[uuid],
            seen_at=seer.seen_at,
            holders=tuple(sorted(holders, key=lambda holder: -holder.held_bytes)),
            given_back_bytes=sum(
                kernel.footprint[uuid] for _, kernel in here if kernel.phase is Phase.RECLAIMED
            ),
            waited_bytes=sum(server.waiting.get(uuid, 0) for server in servers),
        )


def _given_back(kernel: FleetKernel) -> int:
    return kernel.footprint_bytes if kernel.phase is Phase.RECLAIMED else 0
