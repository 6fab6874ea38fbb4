"""Judges what was found of the machine: GPUs, processes, host memory, database. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator

from jupyter_gpu_reclaim.core.explain import human_bytes
from jupyter_gpu_reclaim.doctor.facts import Facts
from jupyter_gpu_reclaim.doctor.findings import Finding, fail, ok, warn

OLDEST_DRIVER = 525  # whose NVML answers all that is asked


def platform(facts: Facts) -> Iterator[Finding]:
    """Can anything be reclaimed on this system?"""
    if facts.platform.startswith("linux"):
        yield ok("platform", "Linux.")
    else:
        yield fail(
            "platform",
            f"Reclaiming GPUs needs Linux; on {facts.platform} the extension loads and touches no kernel.",
            "Run the Jupyter server on Linux (WSL 2 counts).",
        )


def gpus(facts: Facts) -> Iterator[Finding]:
    """Can the GPUs be read?"""
    found = facts.gpu
    if found.names is None or (not found.names and found.problem):
        cause, _, cure = (found.problem or "NVML did not answer.").partition(": ")
        yield fail(
            "gpus", f"{cause.rstrip('.')}.", cure[:1].upper() + cure[1:] or "Check that `nvidia-smi` works."
        )
        return
    if found.driver is not None and not found.simulated and _major(found.driver) < OLDEST_DRIVER:
        yield fail(
            "driver",
            f"The NVIDIA driver {found.driver} is older than {OLDEST_DRIVER}: NVML does not tell what is needed.",
            f"Update the driver to {OLDEST_DRIVER} or newer.",
        )
    elif found.problem:
        yield warn("gpus", f"Something of the GPUs stays unknown. {found.problem}", "As said there.")
    kind = "simulated, " if found.simulated else ""
    yield ok("gpus", f"{', '.join(found.names)} ({kind}driver {found.driver or 'unknown'}).")


def processes(facts: Facts) -> Iterator[Finding]:
    """Can what NVML says of a process be laid to a kernel?"""
    found = facts.gpu
    if not found.names:
        return
    if facts.own_pid_namespace and not found.pids_here:
        yield warn(
            "processes",
            "This is a container with process numbers of its own, and none of those that NVML names is found here. "
            "What a kernel holds is taken from PyTorch's allocator; memory of other libraries is not seen.",
            "Start the container with the host's process numbers (--pid=host, hostPID: true), or leave it so: "
            "PyTorch's memory is reclaimed all the same.",
        )
    elif found.pids_seen > found.pids_here:
        unknown = found.pids_seen - found.pids_here
        yield ok(
            "processes", f"{unknown} of {found.pids_seen} processes on the GPUs are not of this container."
        )
    else:
        yield ok("processes", "What NVML says of a process can be laid to its kernel.")


def host_memory(facts: Facts) -> Iterator[Finding]:
    """Is there room for what would be moved off the GPU?"""
    if facts.host_available_bytes is None:
        yield warn(
            "host memory",
            "How much host memory is available could not be read, so nothing is reclaimed into it.",
            "Let this process read /proc/meminfo and the memory limits in /sys/fs/cgroup.",
        )
        return
    room = max(0, facts.host_available_bytes - facts.host_reserve_bytes)
    said = (
        f"{human_bytes(facts.host_available_bytes)} of host memory are available within the machine's and the "
        f"control groups' limits, {human_bytes(facts.host_reserve_bytes)} of them a reserve (host_reserve_bytes)"
    )
    fix = "Raise the container's memory limit, lower host_reserve_bytes, or name a disk in spill_dir."
    if room == 0:
        yield fail("host memory", f"{said}: there is no room to reclaim anything into.", fix)
    elif room < facts.gpu.largest_bytes:
        yield warn(
            "host memory",
            f"{said}. The {human_bytes(room)} left are less than the {human_bytes(facts.gpu.largest_bytes)} of a GPU.",
            fix,
        )
    else:
        yield ok("host memory", f"{said}.")


def database(facts: Facts) -> Iterator[Finding]:
    """Can the log be written?"""
    if facts.db_problem is None:
        yield ok("database", f"The log at {facts.db_url} can be used.")
    else:
        yield fail(
            "database",
            f"The log at {facts.db_url} cannot be used: {facts.db_problem}. "
            "Its rows wait in a queue on disk meanwhile.",
            "Give this user the right to write there, start the database, or set GpuReclaim.db_url.",
        )


def node(facts: Facts) -> Iterator[Finding]:
    """Can servers on the same GPUs make room for each other?"""
    if facts.node_problem is None:
        yield ok("node", f"Servers on this machine meet in {facts.node_dir}.")
    else:
        yield warn(
            "node",
            f"{facts.node_problem}: this server does not see what others on the same GPUs wait for.",
            f"Run `mkdir -m 1777 {facts.node_dir}` as administrator, or set GpuReclaim.node_dir.",
        )


def simulation(facts: Facts) -> Iterator[Finding]:
    """Could the demo run?"""
    if facts.compiler is not None:
        yield ok("simulated GPU", f"{facts.compiler} can build it for `jupyter gpu-reclaim demo`.")
    elif facts.gpu.names and not facts.gpu.simulated:
        yield ok("simulated GPU", "No C++ compiler here; only the demo's simulated GPU would need one.")
    else:
        yield warn(
            "simulated GPU",
            "There is no C++ compiler, with which the demo's simulated GPU is built; nothing else needs one.",
            "Run `apt install g++` or `conda install gxx` to play the demo.",
        )


def _major(driver: str) -> int:
    head = driver.split(".")[0]
    return int(head) if head.isdigit() else OLDEST_DRIVER
