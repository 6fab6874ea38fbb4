"""Observer: one look at GPUs, host memory and kernels. What cannot be read is None; a look neither fails nor hangs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from jupyter_server.gateway.managers import GatewayKernelManager

from jupyter_gpu_reclaim.agent.host_limits import available_host_bytes
from jupyter_gpu_reclaim.core.model import Gpu, Holding, Snapshot
from jupyter_gpu_reclaim.gpu.nvml import Nvml, Reading
from jupyter_gpu_reclaim.server.holdings import (
    GpuProcess,
    KernelFacts,
    Seen,
    managed_holding,
    unmanaged_holding,
)
from jupyter_gpu_reclaim.server.injection import Injection
from jupyter_gpu_reclaim.server.labels import NotebookLabels
from jupyter_gpu_reclaim.server.link import AgentLinks
from jupyter_gpu_reclaim.server.patient_thread import PatientThread, StillBusy
from jupyter_gpu_reclaim.server.processes import command_name
from jupyter_gpu_reclaim.server.processes_by_kernel import ProcessesByKernel

DRIVER_LIMIT, CLOSE_LIMIT = timedelta(seconds=5), timedelta(seconds=1)
HELLO_EXPECTED_WITHIN = timedelta(seconds=30)

STARTING = "It has just started, and its agent has not reported yet."
NO_HELLO = (
    "No agent has reported from it: IPython may be told not to run PYTHONSTARTUP "
    "(InteractiveShellApp.exec_PYTHONSTARTUP), or it is no IPython kernel."
)
NOT_INVITED = "It was started before reclaiming was switched on; restart it to have it managed."
ELSEWHERE = "It does not run on this machine, so its GPU memory is out of reach."
DRIVER_SILENT = (
    "The GPU's driver has not answered for {seconds:.0f} s, so nothing is reclaimed. It is asked again when it does; "
    "`nvidia-smi` on this machine tells whether it hangs there too."
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """One reading of the machine, taken in one thread."""

    reading: Reading
    host_available_bytes: int | None


class ServerObserver:
    """Looks at this server's kernels. What it costs does not grow with kernels that do nothing: no system call each."""

    def __init__(
        self,
        kernel_manager: Any,
        labels: NotebookLabels,
        links: AgentLinks,
        injection: Injection,
        nvml: Nvml,
        owner: str,
    ) -> None:
        self._kernel_manager = kernel_manager
        self._labels = labels
        self._links = links
        self._injection = injection
        self._nvml = nvml
        self._owner = owner
        self._processes = ProcessesByKernel()
        # By kernel id, and what each was made of: seldom is that new, and comparing it is quicker than making another.
        self._managed: dict[str, tuple[tuple, Holding]] = {}
        self._hardware = PatientThread(
            lambda: Hardware(nvml.read(), available_host_bytes()), DRIVER_LIMIT, "gpu-reclaim-nvml"
        )

    async def snapshot(self) -> Snapshot:
        """See `ports.Observer`."""
        hardware = await self._read_hardware()
        now = datetime.now(UTC)
        kernels = await self._kernels(now)
        seen = self._join(hardware.reading, kernels)
        for kernel_id in self._managed.keys() - seen.keys():
            del self._managed[kernel_id]
        return Snapshot(
            taken_at=now,
            gpus=hardware.reading.gpus,
            gpus_problem=hardware.reading.problem,
            driver=hardware.reading.driver,
            host_available_bytes=hardware.host_available_bytes,
            holdings=tuple(self._holding(kernel, seen[kernel.kernel_id], now) for kernel in kernels),
        )

    async def gpus(self) -> tuple[Gpu, ...] | None:
        """See `ports.Observer`."""
        if self._hardware.is_busy:
            await self._read_hardware()  # it may have begun before we were called
        return (await self._read_hardware()).reading.gpus

    async def close(self) -> None:
        """Let the driver go; one that hangs is left behind."""
        if not self._hardware.is_busy:
            with suppress(StillBusy):
                await PatientThread(self._nvml.close, CLOSE_LIMIT, "gpu-reclaim-nvml").result()

    async def _read_hardware(self) -> Hardware:
        try:
            return await self._hardware.result()
        except StillBusy as busy:
            problem = DRIVER_SILENT.format(seconds=busy.since.total_seconds())
            return Hardware(Reading(gpus=None, problem=problem), None)

    async def _kernels(self, now: datetime) -> list[KernelFacts]:
        kernel_ids = list(self._kernel_manager.list_kernel_ids())
        paths = await self._labels.paths(kernel_ids, now)
        return [
            self._facts(kernel_id, paths) for kernel_id in kernel_ids if kernel_id in self._kernel_manager
        ]

    def _facts(self, kernel_id: str, paths: Mapping[str, str]) -> KernelFacts:
        kernel = self._kernel_manager.get_kernel(kernel_id)
        provisioner = getattr(kernel, "provisioner", None)
        return KernelFacts(
            kernel_id=kernel_id,
            label=paths.get(kernel_id) or kernel.kernel_name,
            kernel_name=kernel.kernel_name,
            owner=self._owner,
            language=getattr(getattr(provisioner, "kernel_spec", None), "language", None) or "unknown",
            pid=getattr(provisioner, "pid", None),
            is_here=not isinstance(kernel, GatewayKernelManager),
        )

    def _join(self, reading: Reading, kernels: list[KernelFacts]) -> dict[str, Seen]:
        """What NVML's list of processes shows of each kernel."""
        roots = {kernel.pid: kernel.kernel_id for kernel in kernels if kernel.pid}
        roots.update(self._links.pids())
        pids = {pid for processes in reading.processes.values() for pid in processes}
        owners = self._processes.place(pids, roots)
        own: dict[str, list[GpuProcess]] = {kernel.kernel_id: [] for kernel in kernels}
        children: dict[str, list[GpuProcess]] = {kernel.kernel_id: [] for kernel in kernels}
        for gpu, processes in reading.processes.items():
            for pid, used_bytes in processes.items():
                kernel_id = owners.get(pid)
                if kernel_id not in own:
                    continue
                link = self._links.link(kernel_id)
                if link is None or link.pid == pid:
                    own[kernel_id].append(GpuProcess(pid=pid, gpu=gpu, used_bytes=used_bytes))
                else:
                    child = GpuProcess(pid=pid, gpu=gpu, used_bytes=used_bytes, name=command_name(pid))
                    children[kernel_id].append(child)
        return {
            kernel_id: Seen(
                own=own[kernel_id],
                children=children[kernel_id],
                busy=busy_of(reading, [*own[kernel_id], *children[kernel_id]]),
            )
            for kernel_id in own
        }

    def _holding(self, kernel: KernelFacts, seen: Seen, now: datetime) -> Holding:
        link = self._links.link(kernel.kernel_id)
        if link is None:
            return unmanaged_holding(kernel, seen, self._why_unmanaged(kernel, now))
        facts = (kernel, link.pid, link.status, link.progress, seen)
        made_of, holding = self._managed.get(kernel.kernel_id, (None, None))
        if holding is None or made_of != facts:
            holding = managed_holding(*facts)
            self._managed[kernel.kernel_id] = facts, holding
        return holding

    def _why_unmanaged(self, kernel: KernelFacts, now: datetime) -> str:
        if not kernel.is_here:
            return ELSEWHERE
        left_alone = self._injection.left_alone(kernel.kernel_id)
        if left_alone is not None:
            return left_alone
        turned_away = self._links.turned_away(kernel.kernel_id)
        if turned_away is not None:
            return f"Its agent was turned away: {turned_away}"
        invited_at = self._links.invited_at(kernel.kernel_id)
        if invited_at is None:
            return NOT_INVITED
        return STARTING if now - invited_at < HELLO_EXPECTED_WITHIN else NO_HELLO


def busy_of(reading: Reading, processes: list[GpuProcess]) -> bool | None:
    """Has any of these worked a GPU since the last look? None where the driver cannot tell for a GPU one of them is on.

    A kernel that the driver lists nowhere may still be there under another process id (in a container), so of that
    nothing is known either.
    """
    if not processes:
        return None
    answers = [
        None if (by_pid := reading.busy.get(process.gpu)) is None else process.pid in by_pid
        for process in processes
    ]
    return True if True in answers else None if None in answers else False
