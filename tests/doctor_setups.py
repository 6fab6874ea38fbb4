"""A healthy machine, and what is broken in each set-up that `doctor` has a golden file for (tests/golden/doctor/).

`python tests/doctor_setups.py` writes those files anew; look at what changed before it is committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jupyter_gpu_reclaim.doctor.examine import examined, lines
from jupyter_gpu_reclaim.doctor.facts import CullerFacts, Facts, GpuFacts, KernelFacts, LabFacts, ServerFacts
from jupyter_gpu_reclaim.gpu.nvml_problems import (
    LIBRARY_NOT_FOUND,
    NO_PERMISSION,
    driver_problem,
    partial_problem,
)

FOLDER = Path(__file__).parent / "golden" / "doctor"
GIB = 1 << 30
PYTHON = "/opt/conda/bin/python"
KERNEL = KernelFacts(name="python3", interpreter=PYTHON, python=(3, 12), ipykernel="7.4.0", torch="2.13.0")
GPU = GpuFacts(
    names=("NVIDIA A100-SXM4-40GB",), largest_bytes=40 * GIB, driver="570.86", pids_seen=2, pids_here=2
)
CULLERS = CullerFacts(idle_after_seconds=1200)
LAB = LabFacts(
    jupyterlab="4.6.6",
    labextension="1.0.0",
    folder="/opt/conda/share/jupyter/labextensions/jupyter-gpu-reclaim",
)
HEALTHY = Facts(
    version="1.0.0",
    platform="linux",
    server=ServerFacts(
        enabled=True, named_in="/opt/conda/etc/jupyter/jupyter_server_config.d/jupyter_gpu_reclaim.json"
    ),
    lab=LAB,
    kernels=(KERNEL,),
    gpu=GPU,
    host_available_bytes=100 * GIB,
    host_reserve_bytes=2 * GIB,
    db_url="sqlite:////home/ada/.local/share/jupyter/gpu_reclaim.sqlite",
    node_dir="/run/jupyter_gpu_reclaim",
    cullers=CULLERS,
    compiler="/usr/bin/g++",
)  # fmt: skip


def no_gpu(code: int | None, words: str) -> GpuFacts:
    """What is known where NVML fails with that code."""
    return GpuFacts(names=None, problem=driver_problem(code, words))


def kernel(**facts: object) -> tuple[KernelFacts, ...]:
    """One kernelspec, in which these facts differ."""
    return (replace(KERNEL, **facts),)


SETUPS: Mapping[str, Facts] = {
    "healthy": HEALTHY,
    "server_disabled": replace(
        HEALTHY, server=ServerFacts(enabled=False, named_in="/home/ada/.jupyter/jupyter_server_config.d/off.json")
    ),
    "server_unnamed": replace(HEALTHY, server=ServerFacts(enabled=None)),
    "server_config_broken": replace(
        HEALTHY,
        server=replace(HEALTHY.server, problem="jupyter_server_config: NameError: name 'd' is not defined"),
    ),
    "settings_wrong": replace(HEALTHY, policy_problem="idle_after_seconds: -1.0 is less than 0"),
    "labextension_missing": replace(HEALTHY, lab=replace(LAB, labextension=None, folder="")),
    "labextension_other_version": replace(HEALTHY, lab=replace(LAB, labextension="0.9.0")),
    "labextension_disabled": replace(
        HEALTHY, lab=replace(LAB, disabled_in="/home/ada/.jupyter/labconfig/page_config.json")
    ),
    "lab_old": replace(HEALTHY, lab=replace(LAB, jupyterlab="4.5.9")),
    "lab_absent": replace(HEALTHY, lab=LabFacts(jupyterlab=None, labextension="1.0.0")),
    "nvml_missing": replace(HEALTHY, gpu=no_gpu(LIBRARY_NOT_FOUND, "not found")),
    "nvml_without_permission": replace(HEALTHY, gpu=no_gpu(NO_PERMISSION, "no permission")),
    "nvml_without_gpu": replace(HEALTHY, gpu=replace(no_gpu(None, ""), names=())),
    "gpu_in_parts": replace(
        HEALTHY, gpu=replace(GPU, problem=partial_problem("GPU 0", "processes", NO_PERMISSION, "no permission"))
    ),
    "driver_old": replace(HEALTHY, gpu=replace(GPU, driver="470.42.01")),
    "kernel_without_torch": replace(HEALTHY, kernels=kernel(torch=None)),
    "kernel_torch_without_cuda": replace(HEALTHY, kernels=kernel(torch="2.13.0+cpu")),
    "kernel_without_ipykernel": replace(HEALTHY, kernels=kernel(ipykernel=None)),
    "kernel_broken": replace(HEALTHY, kernels=kernel(python=None, problem="there is no such program")),
    "kernel_python_old": replace(HEALTHY, kernels=kernel(python=(3, 8))),
    "kernel_of_another_language": replace(
        HEALTHY,
        kernels=(
            KERNEL,
            KernelFacts(name="ir", left_alone="Only Python kernels can be reclaimed; its kernelspec says R."),
        ),
    ),
    "kernel_wrapped": replace(HEALTHY, kernels=kernel(interpreter=None)),
    "kernel_startup_off": replace(
        HEALTHY, startup_off_in="/home/ada/.ipython/profile_default/ipython_config.py"
    ),
    "kernels_none": replace(HEALTHY, kernels=()),
    "pids_apart": replace(HEALTHY, own_pid_namespace=True, gpu=replace(GPU, pids_here=0)),
    "host_memory_little": replace(HEALTHY, host_available_bytes=10 * GIB),
    "host_memory_none": replace(HEALTHY, host_available_bytes=GIB),
    "host_memory_unknown": replace(HEALTHY, host_available_bytes=None),
    "database_unwritable": replace(
        HEALTHY, db_problem="/home/ada/.local/share/jupyter may not be written to by this user"
    ),
    "node_not_sticky": replace(
        HEALTHY, node_problem="/run/jupyter_gpu_reclaim has no sticky bit, so anybody could remove others' files"
    ),
    "culler_of_kernels_first": replace(HEALTHY, cullers=replace(CULLERS, kernel_seconds=600, kernel_connected=True)),
    "culler_of_the_hub_first": replace(HEALTHY, cullers=replace(CULLERS, hub_seconds=600)),
    "cullers_after": replace(
        HEALTHY, cullers=replace(CULLERS, hub_seconds=7200, kernel_seconds=3600, server_seconds=10800)
    ),
    "conflict_gateway": replace(
        HEALTHY, server=replace(HEALTHY.server, gateway_url="http://gateway:8888")
    ),
    "conflict_keep_gpu": replace(HEALTHY, kernels=kernel(keep_gpu="0.5.0")),
    "hub_unreachable": replace(
        HEALTHY, hub_url="http://hub:8081/hub/api", hub_problem="[Errno 111] Connection refused"
    ),
    "compiler_missing": replace(HEALTHY, compiler=None, gpu=no_gpu(LIBRARY_NOT_FOUND, "not found")),
    "not_linux": replace(HEALTHY, platform="darwin", gpu=no_gpu(LIBRARY_NOT_FOUND, "not found")),
}  # fmt: skip


def shown(name: str) -> str:
    """What `doctor` prints there."""
    return "\n".join(lines(examined(SETUPS[name]))) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for setup in SETUPS:
        (FOLDER / f"{setup}.txt").write_text(shown(setup))
