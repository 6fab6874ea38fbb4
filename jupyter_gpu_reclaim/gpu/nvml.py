"""What NVML knows of the GPUs and of the processes on them. The only place that talks to NVML.

`Nvml.read` blocks, and a wedged driver can keep it for ever: call it in a thread that may be left behind, and go on
without an answer. Nothing here is locked or shared between instances, so a call left behind holds up nobody else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import pynvml
from pynvml import NVMLError

from jupyter_gpu_reclaim.core.model import Gpu
from jupyter_gpu_reclaim.gpu.nvml_problems import driver_problem, gpu_problem, partial_problem

T = TypeVar("T")

SIMULATED_BOARD = "JUPYTER_GPU_RECLAIM_SIM_BOARD"  # set where the simulated GPU stands in for NVIDIA's

# After these the library or a handle is of no use any more; a new nvmlInit may help.
STALE = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_UNKNOWN,
}
# The driver cannot tell, here and always: a matter of the GPU, of a container, or of its age.
NEVER_KNOWN = {pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}
# pynvml's words for "no sample newer than that": the code, or a success that it does not expect.
NO_SAMPLES = {pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_SUCCESS}
SIZE_TRIES = 3  # processes may start between asking how many there are and asking which


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at the machine's GPUs. A GPU that could not be read is in none of these, and named in `problem`."""

    gpus: tuple[Gpu, ...] | None  # None: nothing could be read
    driver: str | None = None  # its version
    problem: str | None = None  # what is wrong and how to cure it, in plain sentences
    # Bytes by process by GPU. None: the driver does not say (containers, MIG). A GPU is absent if it lists none at all.
    processes: Mapping[str, Mapping[int, int | None]] = field(default_factory=dict)
    # Percent (1..100) by process by GPU, the highest since the last look; who is not there did nothing. None: unknown.
    busy: Mapping[str, Mapping[int, int] | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Device:
    """One GPU of this connection to NVML. `handle` None: it could not even be opened, `error` says why."""

    index: int
    handle: Any = None
    uuid: str = ""
    name: str = ""
    error: NVMLError | None = None

    def __str__(self) -> str:
        return f"GPU {self.index} ({', '.join(filter(None, [self.name, self.uuid])) or 'name unknown'})"


class Nvml:
    """A connection to NVML, opened by the first `read` and reopened when it breaks, `rest` apart.

    To be used by one thread at a time. `monotonic` tells the seconds that `rest` is measured in.
    """

    def __init__(
        self, *, rest: timedelta = timedelta(seconds=30), monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._rest = rest.total_seconds()
        self._monotonic = monotonic
        self._devices: list[_Device] | None = None  # None: not connected
        self._stale = False
        self._retry_at = float("-inf")
        self._problem: str | None = None
        self._driver: str | None = None
        self._sampled_until: dict[str, int] = {}  # microseconds by UUID

    def read(self) -> Reading:
        """Everything for one snapshot. Raises for no driver or GPU that fails: that is `problem`, with its cure."""
        if not self._connected():
            return Reading(gpus=None, problem=self._problem)
        reading = self._look()
        if self._stale and self._may_connect():
            if not self._connected():
                return Reading(gpus=None, problem=self._problem)
            reading = self._look()
        if not self._stale:
            self._retry_at = float("-inf")  # all is well: the next failure is followed up at once
        return reading

    def close(self) -> None:
        """Lets NVML go. Blocks as `read` does; a `read` afterwards connects again."""
        connected, self._devices = self._devices is not None, None
        if connected:
            try:
                pynvml.nvmlShutdown()
            except NVMLError:
                pass  # there was nothing left to let go: the driver went first

    def _may_connect(self) -> bool:
        return self._monotonic() >= self._retry_at

    def _connected(self) -> bool:
        """Whether there is a connection to ask, after connecting where that is due."""
        if (self._devices is not None and not self._stale) or not self._may_connect():
            return self._devices is not None
        self.close()
        self._retry_at = self._monotonic() + self._rest
        try:
            pynvml.nvmlInit()
            self._devices = []  # connected from here on: a failure below has to let go
            self._driver = self._or_none(pynvml.nvmlSystemGetDriverVersion)
            self._devices = [_opened(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except NVMLError as error:
            self._problem = driver_problem(error.value, str(error))
            self.close()
            return False
        return True

    def _look(self) -> Reading:
        self._stale = False
        gpus: list[Gpu] = []
        processes: dict[str, Mapping[int, int | None]] = {}
        busy: dict[str, Mapping[int, int] | None] = {}
        problems: list[str] = []
        for device in self._devices or ():
            try:
                if device.error is not None:
                    raise device.error
                gpu = self._gpu(device)
            except NVMLError as error:
                self._stale |= error.value in STALE or device.error is not None
                problems.append(gpu_problem(str(device), error.value, str(error)))
                continue
            gpus.append(gpu)
            try:
                processes[gpu.uuid] = _processes(device.handle)
            except NVMLError as error:
                problems += self._unknown(device, "processes", error)
            try:
                busy[gpu.uuid] = self._busy_since_last_look(device)
            except NVMLError as error:
                busy[gpu.uuid] = None
                problems += self._unknown(device, "processes' loads", error)
        if not self._devices:
            problems.append(driver_problem(None, ""))
        return Reading(
            gpus=None if self._devices and not gpus else tuple(gpus),
            driver=self._driver,
            problem=" ".join(dict.fromkeys(problems)) or None,
            processes=processes,
            busy=busy,
        )

    def _gpu(self, device: _Device) -> Gpu:
        total, used = _memory(device.handle)
        rates = self._or_none(pynvml.nvmlDeviceGetUtilizationRates, device.handle)
        milliwatts = self._or_none(pynvml.nvmlDeviceGetPowerUsage, device.handle)
        return Gpu(
            uuid=device.uuid,
            name=device.name,
            total_bytes=total,
            used_bytes=used,
            utilization=rates.gpu / 100 if rates is not None else None,
            power_watts=milliwatts / 1000 if milliwatts is not None else None,
            simulated=SIMULATED_BOARD in os.environ or device.name.startswith("Simulated"),
        )

    def _or_none(self, ask: Callable[..., T], *of: Any) -> T | None:
        """The answer, or None: power and load are shown where they are known, and nothing hangs on them."""
        try:
            return ask(*of)
        except NVMLError as error:
            self._stale |= error.value in STALE
            return None

    def _unknown(self, device: _Device, what: str, error: NVMLError) -> list[str]:
        """What to tell of a part that stays unknown: nothing where this GPU or driver never knows it."""
        self._stale |= error.value in STALE
        if error.value in NEVER_KNOWN:
            return []
        return [partial_problem(str(device), what, error.value, str(error))]

    def _busy_since_last_look(self, device: _Device) -> dict[int, int]:
        since = self._sampled_until.get(device.uuid, 0)
        if since > time.time_ns() // 1000:
            since = 0  # the clock was set back: better to see some work twice than to miss any
        try:
            samples = pynvml.nvmlDeviceGetProcessUtilization(device.handle, since)
        except NVMLError as error:
            if error.value in NO_SAMPLES:
                return {}
            raise
        busy: dict[int, int] = {}
        newest = since
        for sample in samples:
            if sample.timeStamp <= since:
                continue  # a slot of the driver's buffer that was not filled
            newest = max(newest, sample.timeStamp)
            percent = max(sample.smUtil, sample.memUtil, sample.encUtil, sample.decUtil)
            if percent:
                busy[sample.pid] = max(busy.get(sample.pid, 0), min(percent, 100))
        self._sampled_until[device.uuid] = newest
        return busy


def _opened(index: int) -> _Device:
    """One GPU, or the reason why there is none to talk to: one that is lost must not hide the others."""
    device = _Device(index)
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        device.uuid = pynvml.nvmlDeviceGetUUID(handle)
        device.name = pynvml.nvmlDeviceGetName(handle)
        device.handle = handle
    except NVMLError as error:
        device.error = error
    return device


def _memory(handle: Any) -> tuple[int, int]:
    """(total, used) bytes whose difference is what can still be allocated.

    Version 2 tells the driver's reserve apart: it is taken off the total, since nobody can have it. Version 1, all that
    older drivers have, counts it as used.
    """
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return memory.total - memory.reserved, memory.used
    except NVMLError as error:
        if error.value not in {*NEVER_KNOWN, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH}:
            raise
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return memory.total, memory.used


def _processes(handle: Any) -> dict[int, int | None]:
    """Bytes by pid. A process that both computes and draws is in both of the driver's lists, with the same bytes."""
    computing = _listed(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    try:
        drawing = _listed(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle)
    except NVMLError as error:
        if error.value not in NEVER_KNOWN:
            raise
        drawing = {}  # a GPU that only computes
    for pid, used in drawing.items():
        known = computing.get(pid)
        computing[pid] = known if used is None else max(used, known or 0)
    return computing


def _listed(ask: Callable[[Any], list[Any]], handle: Any) -> dict[int, int | None]:
    for attempt in range(SIZE_TRIES):
        try:
            return {row.pid: row.usedGpuMemory for row in ask(handle)}
        except NVMLError as error:
            if error.value != pynvml.NVML_ERROR_INSUFFICIENT_SIZE or attempt == SIZE_TRIES - 1:
                raise
    raise AssertionError("unreachable")
