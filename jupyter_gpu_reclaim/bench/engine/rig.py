"""What every row measures with: the device, the mechanism, a stopwatch from outside, and NVML."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from jupyter_gpu_reclaim.agent.torch_offload import Offloaded, Onloaded, TorchOffload
from jupyter_gpu_reclaim.bench import Refused
from jupyter_gpu_reclaim.gpu.nvml import Nvml

NVML_PATIENCE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Way:
    """One way, out or back: by a stopwatch from outside, and the engine's own laps. Seconds."""

    seconds: float
    laps: dict[str, float]
    moved_bytes: int

    @property
    def copy_seconds(self) -> float:
        """What the engine spent on copying the bytes."""
        return self.laps["copy"]


class Rig:
    """One process, one device, one mechanism; garbage collection is off, as the agent has it while bytes are away."""

    def __init__(self, device_type: str):
        gc.disable()
        self.device = torch.device(device_type, 0)
        self.module: ModuleType = getattr(torch, device_type)
        torch.ones(1, device=self.device)  # the context: no row should pay for it
        self.mechanism = TorchOffload()
        self._nvml = Nvml()

    def timed(self, act: Callable[[], Any]) -> float:
        """Seconds until the act is done, on the device too."""
        self.module.synchronize()
        began = time.perf_counter()
        act()
        self.module.synchronize()
        return time.perf_counter() - began

    def offload(self, verify: bool = False) -> Way:
        """Out, until the mechanism says so. Every movable byte must have moved."""
        offloaded, seconds = self._watched(lambda: self.mechanism.offload(verify=verify))
        if offloaded.unmovable or offloaded.problem:
            raise Refused(f"not all was moved: {offloaded.unmovable} {offloaded.problem or ''}")
        return _way(offloaded, seconds)

    def onload(self) -> Way:
        """Back."""
        return _way(*self._watched(self.mechanism.onload))

    def cycle(self) -> float:
        """Out and back; seconds."""
        return self.offload().seconds + self.onload().seconds

    def used_bytes(self) -> int:
        """What NVML says this process uses, or where it does not say, what the GPU uses in all."""
        reading = self._nvml.read()
        if reading.problem or not reading.gpus:
            raise Refused(f"NVML: {reading.problem}")
        uuid = next(iter(self.mechanism.gpus()))
        of_process = (reading.processes.get(uuid) or {}).get(os.getpid())
        if of_process is not None:
            return of_process
        return next(gpu.used_bytes for gpu in reading.gpus if gpu.uuid == uuid)

    def wait_until_used(self, most_bytes: int) -> None:
        """Until NVML shows that no more than so many bytes are used. Raises `Refused` if that does not come."""
        deadline = time.monotonic() + NVML_PATIENCE_SECONDS
        while (used := self.used_bytes()) > most_bytes:
            if time.monotonic() > deadline:
                raise Refused(f"NVML still shows {used} bytes in use, not {most_bytes}")

    def fresh_host_memory(self) -> None:
        """Gives back what host memory the process holds for nothing, so that no way finds any that is touched."""
        self.mechanism.release_host_buffer()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc
            trim(0)

    @staticmethod
    def _watched(move: Callable[[], Any]) -> tuple[Any, float]:
        began = time.perf_counter()
        result = move()
        return result, time.perf_counter() - began


def _way(result: Offloaded | Onloaded, seconds: float) -> Way:
    """The engine's laps are believed only if they add up to what the stopwatch outside says, within 15 % and 50 ms.

    (Letting go of 100,000 storages takes 80 ms after the last lap.)
    """
    inside = sum(result.seconds.values())
    if not inside <= seconds <= inside * 1.15 + 0.05:
        raise Refused(f"the engine's laps add up to {inside:.4f} s, a stopwatch outside says {seconds:.4f} s")
    return Way(seconds, dict(result.seconds), result.moved_bytes)
