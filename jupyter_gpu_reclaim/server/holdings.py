"""Joins what NVML, the agent and Jupyter each know of one kernel into its `Holding`. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jupyter_gpu_reclaim.core.model import Holding, Phase
from jupyter_gpu_reclaim.server.agent_status import AgentStatus

ONLY_CONTEXT = (
    "All it holds on the GPU is CUDA's own context, which stays until the kernel is restarted or shut down."
)
_MOVING = frozenset({Phase.RECLAIMING, Phase.RESTORING})
_AWAY = frozenset({Phase.RECLAIMED, Phase.RESTORING})


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """What Jupyter knows of a kernel. `pid` is the process that was launched; `is_here`: on this machine."""

    kernel_id: str
    label: str
    owner: str
    language: str
    pid: int | None
    kernel_name: str = ""
    is_here: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """One process of a kernel on one GPU, as NVML lists it. `used_bytes` None: the driver does not say."""

    pid: int
    gpu: str
    used_bytes: int | None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What NVML shows of one kernel: its own process, its children, and whether any of them keeps a GPU busy."""

    own: Sequence[GpuProcess] = ()
    children: Sequence[GpuProcess] = ()
    busy: bool | None = None  # None: the driver cannot say
    footprint: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        sums: dict[str, int] = {}
        for process in self.own:
            if process.used_bytes:
                sums[process.gpu] = sums.get(process.gpu, 0) + process.used_bytes
        object.__setattr__(self, "footprint", sums)


def unmanaged_holding(kernel: KernelFacts, seen: Seen, why: str) -> Holding:
    """A kernel without an agent: shown, and never touched. NVML alone speaks for it."""
    return Holding(
        kernel_id=kernel.kernel_id,
        label=kernel.label,
        owner=kernel.owner,
        language=kernel.language,
        kernel_name=kernel.kernel_name,
        pid=kernel.pid,
        gpu_busy=seen.busy,
        footprint=seen.footprint,
        footprint_source="nvml" if seen.footprint else None,
        unsupported=why,
    )


def managed_holding(
    kernel: KernelFacts, pid: int, status: AgentStatus, progress: tuple[int, int] | None, seen: Seen
) -> Holding:
    """A kernel whose agent has spoken. `pid` is the kernel's own process, `progress` bytes done and in all."""
    footprint, source = footprint_of(status, seen)
    mechanism, unsupported = status.mechanism, status.unsupported
    if mechanism and source == "nvml" and not any(status.reserved_bytes.values()):
        mechanism, unsupported = None, ONLY_CONTEXT
    moved, total = progress if progress and status.phase in _MOVING else (None, None)
    return Holding(
        kernel_id=kernel.kernel_id,
        label=kernel.label,
        owner=kernel.owner,
        language=kernel.language,
        kernel_name=kernel.kernel_name,
        pid=pid,
        managed=True,
        running_since=status.running_since,
        last_active_at=status.last_active_at,
        background_work=background_work(status, seen),
        gpu_busy=gpu_busy(status, seen),
        phase=status.phase,
        phase_since=status.phase_since,
        footprint=footprint,
        footprint_source=source,
        host_bytes=status.host_bytes,
        spilled_bytes=status.spilled_bytes,
        mechanism=mechanism,
        framework=status.framework,
        unsupported=unsupported,
        unmovable=status.unmovable,
        waiting=status.waiting,
        room_wanted=status.room_wanted,
        room_wanted_at=status.room_wanted_at,
        place_wanted_at=status.place_wanted_at,
        moved_bytes=moved,
        move_total_bytes=total,
    )


def footprint_of(status: AgentStatus, seen: Seen) -> tuple[dict[str, int], str | None]:
    """Bytes per GPU and who measured them: NVML where it lists the process, else the allocator inside the kernel.

    While the bytes are away it is what the allocator will need to bring them back.
    """
    if status.phase in _AWAY:
        needed = {gpu: size for gpu, size in status.needed_bytes.items() if size}
        return needed, "allocator" if needed else None
    reserved = {gpu: size for gpu, size in status.reserved_bytes.items() if size}
    footprint = {**reserved, **seen.footprint}
    if not footprint:
        return {}, None
    return footprint, "nvml" if seen.footprint.keys() >= footprint.keys() else "allocator"


def background_work(status: AgentStatus, seen: Seen) -> tuple[str, ...] | None:
    """What the agent found, and children of the kernel that hold GPU memory: those cannot be moved with it."""
    children = {
        process.pid: f"child process {process.pid} ({process.name}) holds GPU memory"
        for process in seen.children
    }
    if status.background_work is None and not children:
        return None
    return (*(status.background_work or ()), *children.values())


def gpu_busy(status: AgentStatus, seen: Seen) -> bool | None:
    """Is the GPU at work for this kernel: yes if either source says so, unknown if neither can say."""
    if seen.busy or status.allocator_active:
        return True
    if seen.busy is None and status.allocator_active is None:
        return None
    return False
