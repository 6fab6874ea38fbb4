"""What `doctor` found out about a machine, before anybody judges it. Bytes in `*_bytes`, spans in `*_seconds`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What the Jupyter server of this user is configured to do."""

    enabled: bool | None  # of our server extension; None: nothing names it
    named_in: str = ""  # the file that had the last word on `enabled`
    gateway_url: str = ""  # kernels run where this leads
    problem: str = ""  # why the configuration could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class LabFacts:
    """What JupyterLab would show. Versions are None for what is not installed."""

    jupyterlab: str | None
    labextension: str | None
    folder: str = ""  # where the labextension lies
    disabled_in: str = ""  # the file that disables it


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """One kernelspec, and what its own interpreter says. Versions are None for what is not installed there."""

    name: str
    left_alone: str | None = None  # why its kernels get no agent
    interpreter: str | None = None  # None: its command does not begin with a Python
    python: tuple[int, int] | None = None
    ipykernel: str | None = None
    torch: str | None = None
    keep_gpu: str | None = None
    problem: str = ""  # why its interpreter did not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What NVML says."""

    names: tuple[str, ...] | None  # None: nothing could be read
    largest_bytes: int = 0  # memory of the largest
    driver: str | None = None
    problem: str | None = None  # with its cure
    simulated: bool = False
    pids_seen: int = 0  # processes that NVML names
    pids_here: int = 0  # those of them that exist under that number here


@dataclass(frozen=True, slots=True, kw_only=True)
class CullerFacts:
    """Who ends what after how long. 0 or None: nobody."""

    idle_after_seconds: float
    kernel_seconds: float = 0
    kernel_connected: bool = False
    server_seconds: float = 0
    hub_seconds: float | None = None  # of a jupyterhub-idle-culler seen running on this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything."""

    version: str
    platform: str
    server: ServerFacts
    lab: LabFacts
    kernels: tuple[KernelFacts, ...]
    startup_off_in: str = ""  # the IPython configuration file that switches PYTHONSTARTUP off
    gpu: GpuFacts
    own_pid_namespace: bool = False
    host_available_bytes: int | None
    host_reserve_bytes: int
    db_url: str  # as it may be shown
    db_problem: str | None = None
    node_dir: str = ""
    node_problem: str | None = None
    cullers: CullerFacts
    hub_url: str = ""
    hub_problem: str | None = None
    compiler: str | None = None
    policy_problem: str = field(default="")  # why our settings could not be read
