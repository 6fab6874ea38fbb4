"""A fleet's servers as a service sees them, read from what each says of itself; nothing in it is taken on trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from jupyter_gpu_reclaim.core.model import Gpu, Phase, Reason
from jupyter_gpu_reclaim.core.wire import WireError, from_json

MOST_KERNELS, MOST_GPUS = 500, 64
MOST_BYTES = 1 << 50  # on one GPU
LONGEST_TEXT = 4096
_IDLE_ENOUGH_FOR_OTHERS = {Reason.RECENTLY_ACTIVE.value, Reason.TURN.value, Reason.IDLE.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What its server decided for a kernel: "keep", "wait" … and why."""

    act: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetKernel:
    """One kernel as its server shows it. `footprint` is as in `model.Holding`."""

    kernel_id: str
    label: str
    phase: Phase
    decision: Judged
    explanation: str = ""
    kernel_name: str = ""
    footprint: Mapping[str, int] = field(default_factory=dict)
    host_bytes: int = 0
    running_since: datetime | None = None
    last_active_at: datetime | None = None
    pinned_until: datetime | None = None
    waiting: int = 0  # cells at the closed gate
    restore_wanted_at: datetime | None = None
    background_work: tuple[str, ...] | None = None
    gpu_busy: bool | None = None
    mechanism: str | None = None
    pressure_idle_after: timedelta | None = None  # by a rule for its kernelspec; None: as its server's

    @property
    def footprint_bytes(self) -> int:
        """Sum over GPUs, in bytes."""
        return sum(self.footprint.values())

    @property
    def holds(self) -> bool:
        """Whether it has memory on a GPU now."""
        return self.phase in (Phase.RESIDENT, Phase.RECLAIMING, Phase.RESTORING) and self.footprint_bytes > 0

    @property
    def idle_since(self) -> datetime | None:
        """Since when it holds memory that nobody uses; None: it does not, or that is not known."""
        return self.last_active_at if self.holds and self.running_since is None else None

    def gives_way(self, now: datetime, idle_for: timedelta) -> bool:
        """Whether its server would reclaim it for others who wait, as far as can be told from outside."""
        since = self.idle_since
        return (
            self.phase is Phase.RESIDENT
            and since is not None
            and now - since >= idle_for
            and self.decision.reason in _IDLE_ENOUGH_FOR_OTHERS
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Of a server's policy, what others must know."""

    mode: str
    pressure_idle_after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class _Status:
    taken_at: datetime | None
    gpus: tuple[Gpu, ...] | None
    kernels: tuple[FleetKernel, ...]
    policy: Patience
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetServer:
    """One server as it was last heard of. `waiting` is bytes per GPU that a restore there waits for in vain."""

    user: str
    server: str  # "" is the user's default server
    node: str
    seen_at: datetime
    gpus: Mapping[str, Gpu] = field(default_factory=dict)
    kernels: tuple[FleetKernel, ...] = ()
    patience: Patience = Patience(mode="on", pressure_idle_after=timedelta(0))
    problems: tuple[str, ...] = ()
    waiting: Mapping[str, int] = field(default_factory=dict)
    groups: frozenset[str] = frozenset()
    profile: str | None = None
    priority: int = 0  # by its rule: the lower gives way first
    kernelspec_priorities: Mapping[str, int] = field(default_factory=dict)  # by the rules for these, instead

    @property
    def key(self) -> tuple[str, str]:
        """(user, server): no two have the same."""
        return self.user, self.server

    def priority_of(self, kernel: FleetKernel) -> int:
        """Of one of its kernels."""
        return self.kernelspec_priorities.get(kernel.kernel_name, self.priority)

    def gives_way(self, kernel: FleetKernel, now: datetime) -> bool:
        """See `FleetKernel.gives_way`, by the patience that its policy has with this one."""
        own = kernel.pressure_idle_after
        return kernel.gives_way(now, self.patience.pressure_idle_after if own is None else own)


def server_from(
    status: Any, waiting: Any, *, user: str, server: str, node: str, seen_at: datetime
) -> FleetServer:
    """The server that said this of itself. Raises `WireError` for what no server of ours says."""
    read: _Status = from_json(_Status, status)
    if len(read.kernels) > MOST_KERNELS or len(read.gpus or ()) > MOST_GPUS:
        raise WireError(f"at most {MOST_KERNELS} kernels and {MOST_GPUS} GPUs are taken")
    for kernel in read.kernels:
        _check_bytes(f"footprint of {kernel.kernel_id[:80]}", kernel.footprint)
        for text in (kernel.kernel_id, kernel.label, kernel.explanation, kernel.kernel_name):
            if len(text) > LONGEST_TEXT:
                raise WireError(f"a text of {len(text)} characters; at most {LONGEST_TEXT} are taken")
    for gpu in read.gpus or ():
        _check_bytes(f"GPU {gpu.uuid[:80]}", {"total": gpu.total_bytes, "used": gpu.used_bytes})
    wanted: Mapping[str, int] = from_json(Mapping[str, int], waiting)
    _check_bytes("waiting", wanted)
    return FleetServer(
        user=user,
        server=server,
        node=node,
        seen_at=seen_at,
        gpus={gpu.uuid: gpu for gpu in read.gpus or ()},
        kernels=read.kernels,
        patience=read.policy,
        problems=read.problems,
        waiting={uuid: n for uuid, n in wanted.items() if n > 0},
    )


def _check_bytes(what: str, counts: Mapping[str, int]) -> None:
    if len(counts) > MOST_GPUS or not all(0 <= n <= MOST_BYTES for n in counts.values()):
        raise WireError(f"{what}: a number of bytes out of bounds")
