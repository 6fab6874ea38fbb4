"""Finds out about GPUs, processes and the folders we use. Reads; makes nothing."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import psutil

from jupyter_gpu_reclaim.doctor.facts import GpuFacts
from jupyter_gpu_reclaim.gpu.nvml import Nvml
from jupyter_gpu_reclaim.node.directory import NodeDirectory, Unusable

INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # its inode is the same on every Linux (include/linux/proc_ns.h)


def gpu() -> GpuFacts:
    """What NVML says now."""
    with closing(Nvml()) as nvml:
        reading = nvml.read()
    pids = {pid for processes in reading.processes.values() for pid in processes}
    gpus = reading.gpus
    return GpuFacts(
        names=None if gpus is None else tuple(gpu.name for gpu in gpus),
        largest_bytes=max((gpu.total_bytes for gpu in gpus or ()), default=0),
        driver=reading.driver,
        problem=reading.problem,
        simulated=any(gpu.simulated for gpu in gpus or ()),
        pids_seen=len(pids),
        pids_here=sum(map(psutil.pid_exists, pids)),
    )


def own_pid_namespace() -> bool:
    """Whether processes are numbered apart from the machine's, as in a container. False where it cannot be known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino != INITIAL_PID_NAMESPACE
    except OSError:
        return False


def node(configured: str) -> tuple[str, str | None]:
    """Where servers meet, and why they cannot."""
    directory = NodeDirectory(Path(configured) if configured else None)
    path = directory.path
    if not configured and not path.exists():
        return str(path), None  # the first server makes it
    try:
        with directory.opened():
            pass
    except Unusable as problem:
        return str(path), str(problem)
    return str(path), None if os.access(path, os.W_OK) else f"{path} cannot be written to"


def compiler() -> str | None:
    """The C++ compiler that would build the simulated GPU."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "c++"))), None)
