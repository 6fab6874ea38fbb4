"""The nouns. Frozen values; bytes are `int`, spans `timedelta`, instants aware UTC `datetime`, GPUs named by UUID.
Unknown is `None`, and `None` never counts as idle."""

# Over 300 lines: every noun stands here, so that whoever looks for one knows where.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class Phase(StrEnum):
    """Where a kernel's GPU bytes are. Jupyter's own execution state is another thing and never merged in."""

    RESIDENT = "resident"
    RECLAIMING = "reclaiming"
    RECLAIMED = "reclaimed"
    RESTORING = "restoring"
    GONE = "gone"
    LOST = "lost"


class Event(StrEnum):
    """What moves a kernel from phase to phase (see `phase.py`) or is worth a row in the log without moving it."""

    RECLAIM_STARTED = "reclaim_started"
    RECLAIM_DONE = "reclaim_done"
    RECLAIM_REFUSED = "reclaim_refused"
    RECLAIM_FAILED = "reclaim_failed"
    RECLAIM_PROPOSED = "reclaim_proposed"  # dry run: what would have been reclaimed
    RESTORE_STARTED = "restore_started"
    RESTORE_DONE = "restore_done"
    RESTORE_REFUSED = "restore_refused"
    RESTORE_FAILED = "restore_failed"
    WAIT_ENDED = "wait_ended"  # a waiting cell was ended by restore_timeout; nothing lost
    PINNED = "pinned"
    UNPINNED = "unpinned"
    ALARM_RAISED = "alarm_raised"  # a copy came out wrong: see `alarms.py`
    ALARM_CLEARED = "alarm_cleared"
    KERNEL_GONE = "kernel_gone"
    LOST = "lost"
    ROWS_LOST = "rows_lost"  # of the log itself: no room for them while the database was away
    ROWS_DELETED = "rows_deleted"  # of the log itself: for their age or number
    ORDER_GIVEN = "order_given"  # of the hub's log: an administrator wants something of a kernel
    POLICY_CHANGED = "policy_changed"  # of the hub's log


class Reason(StrEnum):
    """Why a kernel is acted on or left alone. The sentence for each is written once, in `explain.py`."""

    # why a kernel is left alone
    NO_GPU_MEMORY = "no_gpu_memory"  # holds nothing worth moving
    RUNNING = "running"  # a cell (or other user code) runs or is queued
    RECENTLY_ACTIVE = "recently_active"
    ACTIVITY_UNKNOWN = "activity_unknown"
    BACKGROUND_WORK = "background_work"
    BACKGROUND_UNKNOWN = "background_unknown"
    GPU_BUSY = "gpu_busy"  # GPU work of this kernel seen by NVML
    GPU_UNKNOWN = "gpu_unknown"  # the GPU could not be observed: nothing is reclaimed blind
    PINNED = "pinned"
    COOLDOWN = "cooldown"
    TOO_SMALL = "too_small"
    HOST_MEMORY = "host_memory"
    UNSUPPORTED = "unsupported"  # no mechanism for what it holds; `Holding.unsupported` says why
    DISTRUSTED = "distrusted"  # an alarm stands; `Holding.distrusted` says which
    UNMANAGED = "unmanaged"  # no agent in this kernel; `Holding.unsupported` says why
    IN_FLIGHT = "in_flight"
    TURN = "turn"  # other moves are under way; this one comes after them
    ALREADY_RECLAIMED = "already_reclaimed"
    ALREADY_RESIDENT = "already_resident"
    RETRY_LATER = "retry_later"  # the last attempt failed; a rest before the next
    THRASHING = "thrashing"  # moving takes too much of the GPU's time, so whoever came back stays for longer
    NO_SPARE_ROOM = "no_spare_room"  # an early restore would cost somebody else their room
    LOST = "lost"
    SWITCHED_OFF = "switched_off"  # mode "off": nothing is reclaimed
    DRY_RUN = "dry_run"  # mode "dry_run": it would have been reclaimed
    LOG_UNAVAILABLE = "log_unavailable"  # no intent can be written, so nothing is reclaimed
    # why a kernel is acted on
    IDLE = "idle"
    PRESSURE = "pressure"  # GPU memory short of the headroom
    ADMISSION = "admission"  # somebody waits for room
    REQUESTED = "requested"  # a person or an operator asked
    USER_CODE = "user_code"  # user code waits at the gate
    ROOM = "room"  # running code waits to allocate, and there is room
    PLACE = "place"  # user code waits at the open gate, and there is a running place
    PREFETCH = "prefetch"  # its user is coming back to it, and there is room to spare
    # why what was wanted waits
    NO_ROOM = "no_room"
    NO_PLACE = "no_place"  # as many kernels as may run at once on a GPU are running
    QUEUED = "queued"
    # outcomes that the server did not order
    SELF_RESTORED = "self_restored"  # the agent restored by itself (server gone, or the kernel was ending)
    KERNEL_ENDED = "kernel_ended"
    CANCELLED = "cancelled"  # user code arrived while the reclaim was under way
    LINK_LOST = "link_lost"
    COPY_DAMAGED = "copy_damaged"  # a checksum did not agree


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as NVML reports it. `used_bytes` excludes the driver's reserve. Power and utilisation may be unknown."""

    uuid: str
    name: str
    total_bytes: int
    used_bytes: int
    utilization: float | None = None  # 0..1, of the whole GPU
    power_watts: float | None = None
    simulated: bool = False

    @property
    def free_bytes(self) -> int:
        """Bytes nobody holds; never negative."""
        return max(0, self.total_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one kernel holds, and everything `decide()` may know about it.

    `footprint` is bytes per GPU: held now when resident, needed to come back when reclaimed. `footprint_source` says
    who measured it: "nvml" (per process) or "allocator" (inside the kernel, where NVML cannot see it).
    """

    kernel_id: str
    label: str
    owner: str = ""
    language: str = "python"
    kernel_name: str = ""  # of its kernelspec
    running_since: datetime | None = None  # user code at work since then; None: none
    last_active_at: datetime | None = None  # end of the last user code; None: unknown
    background_work: tuple[str, ...] | None = None  # (): none found; None: not judged yet
    gpu_busy: bool | None = None  # GPU work of this kernel seen since the last look; None: cannot be seen
    pinned_until: datetime | None = None
    phase: Phase = Phase.RESIDENT
    phase_since: datetime | None = None
    footprint: Mapping[str, int] = field(default_factory=dict)
    footprint_source: str | None = None
    host_bytes: int = 0  # host memory held for offloaded bytes; some stays for the next reclaim
    spilled_bytes: int = 0  # of what was moved, on disk
    mechanism: str | None = None  # None: nothing we have can move it
    framework: str | None = None  # whose memory the mechanism moves, with its version: "torch 2.13.0"
    unsupported: str | None = None  # why mechanism is None, as a sentence
    distrusted: str | None = None  # why the mechanism is not trusted on one of its GPUs, as a sentence
    managed: bool = False  # an agent speaks for this kernel
    pid: int | None = None  # of the process behind kernel_id, which a restart changes; None: unknown
    unmovable: Mapping[str, int] = field(default_factory=dict)  # reason → bytes left in place
    waiting: int = 0  # cells (or other user code) waiting at the closed gate
    reclaim_wanted_at: datetime | None = None
    restore_wanted_at: datetime | None = None
    prefetch_wanted_at: datetime | None = None  # restore it if that costs nobody anything
    room_wanted: Mapping[str, int] = field(default_factory=dict)  # running code waits to allocate it
    room_wanted_at: datetime | None = None
    place_wanted_at: datetime | None = None  # user code waits at the gate for a running place
    admitted_at: datetime | None = None  # it may go ahead since then, and has not yet been seen to
    restored_early: bool = False  # came back on a wish to prefetch, and was not used since
    warned_at: datetime | None = None  # its user was told that it will be reclaimed
    priority: int = 0  # who gives way first: the lower
    retry_at: datetime | None = None  # not before then, after a failure
    moved_bytes: int | None = None  # progress of the move under way
    move_total_bytes: int | None = None

    @property
    def footprint_bytes(self) -> int:
        """Sum over GPUs, in bytes."""
        return sum(self.footprint.values())

    @property
    def host_bytes_to_take(self) -> int:
        """Memory of the host (or disk, where it is spilled) that reclaiming it would take beside what it holds."""
        return max(0, self.footprint_bytes - self.host_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The world at one instant. `gpus` is None when NVML could not be asked, with the reason in `gpus_problem`."""

    taken_at: datetime
    gpus: tuple[Gpu, ...] | None
    holdings: tuple[Holding, ...]
    host_available_bytes: int | None  # None: unknown, so no further host memory is taken
    gpus_problem: str | None = None
    driver: str | None = None  # the driver's version
    outside_pressure: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Every setting `decide()` reads. Traits of the same names are in `config.py`, where the defaults are explained."""

    mode: str = "on"  # "on", "dry_run" (decide and log, move nothing) or "off"
    idle_after: timedelta = timedelta(minutes=20)
    warn_before: timedelta = timedelta(minutes=1)
    pressure_idle_after: timedelta = timedelta(minutes=2)
    headroom_bytes: int = 0
    pressure_grace: timedelta = timedelta(seconds=30)
    cooldown: timedelta = timedelta(minutes=1)
    quantum: timedelta = timedelta(seconds=30)  # least residence while moving takes too much of a GPU's time
    max_moving_share: float = 0.1  # of a GPU's time; more is too much
    max_running_per_gpu: int = 0  # kernels that hold memory on a GPU and run at once; 0: no limit
    priorities: Mapping[str, int] = field(default_factory=dict)  # pattern of label, or kernelspec → priority
    min_reclaim_bytes: int = 64 << 20
    host_reserve_bytes: int = 2 << 30
    spill_limit_bytes: int = 0  # on disk, of all kernels together
    max_in_flight: int = 2
    max_pin: timedelta = timedelta(hours=12)
    restore_timeout: timedelta = timedelta(minutes=10)
    retry_after: timedelta = timedelta(seconds=30)
    rule_priority: int = 0  # of the rule that made it; added to what `priorities` say
    by_kernelspec: tuple[
        KernelspecPolicy, ...
    ] = ()  # the first that fits a kernel holds for it, in place of this


OF_RULES = ("rule_priority", "by_kernelspec")
"""What no setting makes, but a Hub's rules do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelspecPolicy:
    """What holds for kernels of such a kernelspec, by patterns; see `kernelspecs.py`. It has no entries itself."""

    kernelspecs: tuple[str, ...]
    policy: Policy


@dataclass(frozen=True, slots=True)
class Keep:
    """Leave the kernel as it is."""

    kernel_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Warn:
    """Leave it, and tell its user that it will be reclaimed for being idle once `warn_before` has passed."""

    kernel_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Move the kernel's GPU bytes to the host: to its memory, but for `spill_bytes` of them, which must go to disk."""

    kernel_id: str
    reason: Reason
    spill_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Restore:
    """Bring the kernel's bytes back: there is room, and it is its turn, or it may go ahead of those in `passed`."""

    kernel_id: str
    reason: Reason
    passed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Admit:
    """Code of a resident kernel that waits, for room to allocate or for a running place, may go ahead."""

    kernel_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Wait:
    """What was wanted cannot go ahead now. `missing` is bytes short per GPU, `position` 1 for the head."""

    kernel_id: str
    reason: Reason
    position: int = 1
    missing: Mapping[str, int] = field(default_factory=dict, hash=False)


Decision = Keep | Warn | Reclaim | Restore | Admit | Wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The act succeeded. `moved_bytes` were copied; `freed_bytes` is what the agent's allocator gave back, per GPU.

    `needed_bytes` (after a reclaim) is what coming back will take, per GPU, allocator rounding included.
    """

    moved_bytes: int
    took: timedelta
    freed_bytes: Mapping[str, int] = field(default_factory=dict)
    needed_bytes: Mapping[str, int] = field(default_factory=dict)
    unmovable: Mapping[str, int] = field(default_factory=dict)
    spilled_bytes: int = 0  # of those moved, on disk


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was touched: between the decision and the act something had changed. A normal outcome."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The act failed. With `memory_intact` the state is the one before the act and it can be tried again."""

    error: str
    memory_intact: bool
    out_of_memory: bool = False
    damaged_gpu: str | None = None  # where a copy from or to this GPU had another checksum than the original


Outcome = Done | Refused | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One row of the append-only log. An episode is a fold over the rows of one `episode_id`; no second table."""

    id: str  # UUID, given by who makes the row: appending it twice writes it once
    at: datetime
    kernel_id: str
    event: Event
    phase: Phase  # the phase after it
    episode_id: str | None = None
    reason: Reason | None = None
    label: str = ""
    owner: str = ""
    mechanism: str | None = None
    framework: str | None = None
    driver: str | None = None
    footprint: Mapping[str, int] = field(default_factory=dict)
    moved_bytes: int | None = None
    freed_bytes: Mapping[str, int] = field(default_factory=dict)
    unmovable: Mapping[str, int] = field(default_factory=dict)
    took: timedelta | None = None
    detail: str = ""
    actor: str = ""  # the person or service that asked; "" for the policy itself
    simulated: bool = False
