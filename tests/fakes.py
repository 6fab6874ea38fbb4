"""The ports in memory: an honest little world with GPUs that fill up, kernels that hold bytes, and a log.

Bytes are conserved: what a kernel holds is on a GPU or in host memory, never nowhere and never in both. `World.calls`
lists every call of a port, and `World.script` may make any of them hang or raise, before or after it took effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from jupyter_gpu_reclaim.core.model import (
    Done,
    Event,
    Failed,
    Gpu,
    Holding,
    Outcome,
    Phase,
    Reason,
    Refused,
    Snapshot,
    Transition,
)
from jupyter_gpu_reclaim.ports import LogUnavailable

GIB = 1 << 30
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


class FakeClock:
    """Time that passes only when it is told to."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return self._now

    def advance(self, **span: float) -> None:
        """Let time pass: `advance(minutes=5)`."""
        self._now += timedelta(**span)


@dataclass
class FakeKernel:
    """A kernel with an agent. `data` stands for the content of its tensors and must never change by itself."""

    kernel_id: str
    footprint: dict[str, int]
    last_active_at: datetime | None
    phase: Phase = Phase.RESIDENT
    phase_since: datetime | None = None
    data: str = ""
    pid: int = 100
    managed: bool = True
    running_since: datetime | None = None
    waiting: int = 0
    background_work: tuple[str, ...] | None = ()
    gpu_busy: bool | None = False
    mechanism: str | None = "torch_offload"
    room_wanted: dict[str, int] = field(default_factory=dict)
    room_wanted_at: datetime | None = None
    place_wanted_at: datetime | None = None
    kernel_name: str = "python3"
    errors: list[str] = field(default_factory=list)  # what its waiting cells were ended with

    @property
    def on_gpu(self) -> bool:
        """Whether its bytes take room on GPUs."""
        return self.phase in (Phase.RESIDENT, Phase.RECLAIMING, Phase.RESTORING)

    def holding(self) -> Holding:
        """What an observer sees."""
        return Holding(
            kernel_id=self.kernel_id,
            label=f"{self.kernel_id}.ipynb",
            owner="ada",
            pid=self.pid,
            managed=self.managed,
            running_since=self.running_since,
            last_active_at=self.last_active_at,
            background_work=self.background_work,
            gpu_busy=self.gpu_busy,
            phase=self.phase,
            phase_since=self.phase_since,
            footprint=dict(self.footprint),
            footprint_source="nvml",
            host_bytes=0 if self.on_gpu else sum(self.footprint.values()),
            mechanism=self.mechanism,
            framework="torch 2.13.0",
            waiting=self.waiting,
            room_wanted=dict(self.room_wanted),
            room_wanted_at=self.room_wanted_at,
            place_wanted_at=self.place_wanted_at,
            kernel_name=self.kernel_name,
        )


class World:
    """GPUs, kernels and a log, and the ports onto them: `observer`, `kernels_port` and `log`."""

    def __init__(self, *, host_bytes: int | None = 64 * GIB, **gpu_bytes: int) -> None:
        self.clock = FakeClock()
        self.gpu_bytes = gpu_bytes or {"g0": 16 * GIB}
        self.others = dict.fromkeys(self.gpu_bytes, 0)  # bytes held by processes that are no kernels of ours
        self.host_bytes = host_bytes
        self.kernels: dict[str, FakeKernel] = {}
        self.gpus_problem: str | None = None
        self.driver = "580"
        self.damaging: set[str] = set()  # kernels whose copies come out wrong
        self.outside_pressure: dict[str, int] = {}
        self.move_takes = timedelta(seconds=1)  # as the agents say; time does not pass by it
        self.calls: list[str] = []
        self.script: Callable[[str, str], asyncio.Event | Exception | None] = lambda call, when: None
        self.observer = FakeObserver(self)
        self.kernels_port = FakeKernels(self)
        self.log = FakeLog(self)

    # -- what people do ---------------------------------------------------------------------------------------------

    def start(self, kernel_id: str, idle: timedelta = timedelta(0), **bytes_on: int) -> FakeKernel:
        """A kernel that has put bytes on GPUs and then has been idle for so long."""
        kernel = FakeKernel(kernel_id, bytes_on, self.clock.now() - idle, data=f"tensors of {kernel_id}")
        self.kernels[kernel_id] = kernel
        return kernel

    def run_cell(self, kernel_id: str) -> None:
        """User code reaches the gate: it runs, or waits there for the bytes."""
        kernel = self.kernels[kernel_id]
        if kernel.phase is Phase.RESIDENT:
            kernel.running_since = self.clock.now()
        else:
            kernel.waiting += 1

    def want_room(self, kernel_id: str, **bytes_on: int) -> None:
        """Running code could not allocate so much more, and waits."""
        kernel = self.kernels[kernel_id]
        kernel.room_wanted, kernel.room_wanted_at = bytes_on, self.clock.now()

    def want_place(self, kernel_id: str) -> None:
        """User code waits at the open gate for a running place."""
        self.kernels[kernel_id].place_wanted_at = self.clock.now()

    def end_cell(self, kernel_id: str) -> None:
        """The running code ends."""
        kernel = self.kernels[kernel_id]
        kernel.running_since, kernel.last_active_at = None, self.clock.now()

    # -- what the machine knows -------------------------------------------------------------------------------------

    def used(self, gpu: str) -> int:
        """Bytes taken on a GPU."""
        return self.others[gpu] + sum(k.footprint.get(gpu, 0) for k in self.kernels.values() if k.on_gpu)

    def free(self, gpu: str) -> int:
        """Bytes free on a GPU."""
        return self.gpu_bytes[gpu] - self.used(gpu)

    def host_available(self) -> int | None:
        """Host memory that is left."""
        if self.host_bytes is None:
            return None
        return self.host_bytes - sum(sum(k.footprint.values()) for k in self.kernels.values() if not k.on_gpu)

    def snapshot(self) -> Snapshot:
        """Everything, at this instant."""
        gpus = tuple(
            Gpu(uuid=uuid, name="Fake", total_bytes=total, used_bytes=self.used(uuid))
            for uuid, total in self.gpu_bytes.items()
        )
        return Snapshot(
            taken_at=self.clock.now(),
            gpus=None if self.gpus_problem else gpus,
            gpus_problem=self.gpus_problem,
            holdings=tuple(kernel.holding() for kernel in self.kernels.values()),
            host_available_bytes=self.host_available(),
            driver=self.driver,
            outside_pressure=dict(self.outside_pressure),
        )

    async def call(self, name: str, when: str) -> None:
        """Every port call passes here twice, "before" and "after" its effect; `script` decides what becomes of it."""
        if when == "before":
            self.calls.append(name)
        verdict = self.script(name, when)
        if isinstance(verdict, Exception):
            raise verdict
        if verdict is not None:
            await verdict.wait()


class FakeObserver:
    """See `ports.Observer`."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def snapshot(self) -> Snapshot:
        """See `ports.Observer`."""
        await self._world.call("snapshot", "before")
        seen = self._world.snapshot()
        await self._world.call("snapshot", "after")
        return seen

    async def gpus(self) -> tuple[Gpu, ...] | None:
        """See `ports.Observer`."""
        await self._world.call("gpus", "before")
        seen = self._world.snapshot().gpus
        await self._world.call("gpus", "after")
        return seen


class FakeKernels:
    """See `ports.KernelControl`; the agent's rules are kept: it looks again, rolls back, and loses nothing."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def suspend(self, kernel_id: str, host_bytes: int, spill_bytes: int = 0) -> Outcome:
        """See `ports.KernelControl`."""
        world = self._world
        await world.call("suspend", "before")
        kernel = world.kernels.get(kernel_id)
        if kernel is None or not kernel.managed:
            outcome: Outcome = Refused(Reason.LINK_LOST)
        elif kernel.phase is not Phase.RESIDENT:
            outcome = Refused(Reason.ALREADY_RECLAIMED)
        elif kernel.running_since is not None:
            outcome = Refused(Reason.RUNNING)
        elif kernel.background_work:
            outcome = Refused(Reason.BACKGROUND_WORK, kernel.background_work[0])
        elif kernel_id in world.damaging:
            outcome = damaged(kernel)
        else:
            kernel.phase, kernel.phase_since = Phase.RECLAIMED, world.clock.now()
            outcome = self._done(kernel, freed=True)
        await world.call("suspend", "after")
        return outcome

    async def resume(self, kernel_id: str) -> Outcome:
        """See `ports.KernelControl`."""
        world = self._world
        await world.call("resume", "before")
        kernel = world.kernels.get(kernel_id)
        if kernel is None or not kernel.managed:
            outcome: Outcome = Refused(Reason.LINK_LOST)
        elif kernel.phase is not Phase.RECLAIMED:
            outcome = Refused(Reason.ALREADY_RESIDENT)
        elif any(size > world.free(gpu) for gpu, size in kernel.footprint.items()):
            outcome = Failed("out of GPU memory", memory_intact=True, out_of_memory=True)
        elif kernel_id in world.damaging:
            outcome = damaged(kernel)
        else:
            kernel.phase, kernel.phase_since = Phase.RESIDENT, world.clock.now()
            if kernel.waiting:
                kernel.waiting, kernel.running_since = 0, world.clock.now()
            outcome = self._done(kernel, freed=False)
        await world.call("resume", "after")
        return outcome

    async def admit(self, kernel_id: str) -> None:
        """See `ports.KernelControl`. An allocation that fails all the same goes on waiting."""
        world, kernel = self._world, self._world.kernels[kernel_id]
        await world.call("admit", "before")
        if kernel.place_wanted_at is not None:
            kernel.place_wanted_at, kernel.running_since = None, world.clock.now()
        if all(n <= world.free(gpu) for gpu, n in kernel.room_wanted.items()):
            for gpu, n in kernel.room_wanted.items():
                kernel.footprint[gpu] = kernel.footprint.get(gpu, 0) + n
            kernel.room_wanted, kernel.room_wanted_at = {}, None
        await world.call("admit", "after")

    async def end_wait(self, kernel_id: str, message: str) -> None:
        """See `ports.KernelControl`."""
        await self._world.call("end_wait", "before")
        kernel = self._world.kernels[kernel_id]
        kernel.errors.extend([message] * (kernel.waiting + (kernel.place_wanted_at is not None)))
        kernel.waiting, kernel.place_wanted_at = 0, None
        await self._world.call("end_wait", "after")

    def _done(self, kernel: FakeKernel, freed: bool) -> Done:
        return Done(
            moved_bytes=sum(kernel.footprint.values()),
            took=self._world.move_takes,
            freed_bytes=dict(kernel.footprint) if freed else {},
            needed_bytes=dict(kernel.footprint) if freed else {},
        )


def damaged(kernel: FakeKernel) -> Failed:
    """A copy of the kernel's first GPU had another checksum than the original, which is whole."""
    return Failed("A checksum differs.", memory_intact=True, damaged_gpu=next(iter(kernel.footprint)))


class FakeLog:
    """See `ports.ReclaimLog`. With `available` False every call raises `LogUnavailable`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.available = True
        self.rows: list[Transition] = []

    async def append(self, rows: Sequence[Transition]) -> None:
        """See `ports.ReclaimLog`."""
        await self._world.call("append", "before")
        self._check()
        known = {row.id for row in self.rows}
        self.rows.extend(row for row in rows if row.id not in known)
        await self._world.call("append", "after")

    def complaint(self) -> None:
        """See `ports.ReclaimLog`."""

    async def query(
        self,
        *,
        kernel_id: str | None = None,
        gpu: str | None = None,
        reason: Reason | None = None,
        events: Iterable[Event] = (),
        owner: str | None = None,
        whose: str | None = None,
        label: str | None = None,
        mechanism: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> tuple[list[Transition], str | None]:
        """See `ports.ReclaimLog`; one page is all there is."""
        await self._world.call("query", "before")
        self._check()
        wanted = tuple(events)
        found = [
            row
            for row in reversed(self.rows)
            if kernel_id in (None, row.kernel_id)
            and (gpu is None or gpu in row.footprint)
            and reason in (None, row.reason)
            and (not wanted or row.event in wanted)
            and owner in (None, row.owner)
            and (whose is None or row.owner in ("", whose))
            and label in (None, row.label)
            and mechanism in (None, row.mechanism)
            and (since is None or row.at >= since)
            and (until is None or row.at < until)
        ]
        await self._world.call("query", "after")
        return found[:limit], None

    def events(self, kernel_id: str | None = None) -> list[Event]:
        """The events written so far, oldest first."""
        return [row.event for row in self.rows if kernel_id in (None, row.kernel_id)]

    def _check(self) -> None:
        if not self.available:
            raise LogUnavailable("the fake database is away")
