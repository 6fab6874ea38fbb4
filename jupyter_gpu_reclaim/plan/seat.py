"""One kernel in a replay: where its bytes are, what its user is at, and for how long it has been so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import IntEnum

from jupyter_gpu_reclaim.core.model import Holding, Phase
from jupyter_gpu_reclaim.plan.trace import TraceKernel

BEGINNING = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday, to which a trace's microseconds are added."""


def instant(at: int) -> datetime:
    """Microseconds of the trace as `decide()` knows time."""
    return BEGINNING + timedelta(microseconds=at)


def microseconds(at: datetime) -> int:
    """The inverse of `instant`."""
    return (at - BEGINNING) // timedelta(microseconds=1)


class State(IntEnum):
    """What a kernel's time and bytes are counted as. Each is in exactly one at any time."""

    RUNNING = 0
    IDLE = 1  # on the GPU, no code running: what can be won
    RECLAIMING = 2
    RECLAIMED = 3
    RESTORING = 4
    STALLED = 5  # on the GPU, its code waiting for room or for a place


class Seat:
    """The seat that one trace kernel has on one GPU."""

    __slots__ = (
        "arrived",
        "begun",
        "byte_time",
        "cause",
        "cause_since",
        "cell",
        "comes_at",
        "footprint",
        "generation",
        "gpu",
        "last_active",
        "look_at",
        "number",
        "phase",
        "phase_since",
        "place_wanted",
        "priority",
        "resident_since",
        "room_since",
        "room_wanted",
        "running_since",
        "seen",
        "since",
        "time",
        "trace",
        "unseen",
        "waited",
        "waiting_since",
        "warned_at",
    )  # fmt: skip

    def __init__(self, number: int, trace: TraceKernel, gpu: str) -> None:
        self.number, self.trace, self.gpu = number, trace, gpu
        self.cell = 0  # the next to come, or the one under way
        self.begun: int | None = None  # when it first asked for GPU memory
        self.phase = Phase.RESIDENT
        self.phase_since: int | None = None
        self.resident_since: int | None = None
        self.footprint = 0
        self.running_since: int | None = None
        self.comes_at = 0  # the next cell
        self.look_at = 0  # until then time alone changes nothing about it
        self.last_active: int | None = None
        self.unseen = False  # its last cell has ended, and for all that is known its work on the GPU goes on
        self.arrived = 0  # of the cell under way
        self.waiting_since: int | None = None  # at the closed gate
        self.place_wanted: int | None = None
        self.room_wanted, self.room_since = 0, 0
        self.warned_at: datetime | None = None
        self.priority = 0
        self.generation = (
            0  # a move's end and an idle kernel's look are void after the next event of the kernel
        )
        self.cause: str | None = None  # what its user waits for, since `cause_since`
        self.cause_since = self.waited = 0
        self.since = 0  # of the state
        self.time = [0] * len(State)
        self.byte_time = [0] * len(State)
        self.seen: Holding | None = None

    @property
    def waits(self) -> bool:
        """Whether its user's code waits for room, data or a place."""
        return self.waiting_since is not None or self.place_wanted is not None or self.room_wanted > 0

    @property
    def waits_at_gate_since(self) -> int | None:
        """Since when its code has waited for its data or for a place, without being on its way."""
        if self.phase is Phase.RECLAIMED:
            return self.waiting_since
        return self.place_wanted if self.phase is Phase.RESIDENT else None

    def state(self) -> State:
        """What its time counts as now."""
        if self.phase is Phase.RESIDENT:
            if self.place_wanted is not None or self.room_wanted:
                return State.STALLED
            return State.IDLE if self.running_since is None else State.RUNNING
        return _STATE_OF[self.phase]

    def count(self, now: int) -> None:
        """Book the time since the last change. To be called before each."""
        self.seen = None
        span, self.since = now - self.since, now
        if span and self.begun is not None:
            state = self.state()
            self.time[state] += span
            self.byte_time[state] += span * self.footprint

    def begin_away(self) -> None:
        """From the beginning on, what its first cell holds is in host memory."""
        self.phase, self.phase_since, self.begun = Phase.RECLAIMED, 0, 0
        self.footprint = self.trace.held[0]

    def ask_again(self, now: int) -> None:
        """Its wait at the gate has ended with an error, and its user runs the cell again at once."""
        self.count(now)
        if self.phase is Phase.RECLAIMED:
            self.waiting_since = now
        else:
            self.place_wanted = now

    def holding(self) -> Holding:
        """As the reconciler hands it to `decide()`."""
        if self.seen is None:
            self.seen = Holding(
                kernel_id=self.trace.kernel_id,
                label=self.trace.label,
                owner=self.trace.owner,
                running_since=None if self.running_since is None else instant(self.running_since),
                last_active_at=None if self.last_active is None else instant(self.last_active),
                background_work=(),
                gpu_busy=self.unseen or self.running_since is not None,
                phase=self.phase,
                phase_since=None if self.phase_since is None else instant(self.phase_since),
                footprint={self.gpu: self.footprint} if self.footprint else {},
                mechanism="torch_offload",
                managed=True,
                waiting=int(self.waiting_since is not None),
                restore_wanted_at=(
                    instant(self.waiting_since)
                    if self.waiting_since is not None and self.phase is Phase.RECLAIMED
                    else None
                ),
                room_wanted={self.gpu: self.room_wanted} if self.room_wanted else {},
                room_wanted_at=instant(self.room_since) if self.room_wanted else None,
                place_wanted_at=None if self.place_wanted is None else instant(self.place_wanted),
                warned_at=self.warned_at,
                priority=self.priority,
            )
        return self.seen


_STATE_OF = {
    Phase.RECLAIMING: State.RECLAIMING,
    Phase.RECLAIMED: State.RECLAIMED,
    Phase.RESTORING: State.RESTORING,
}
