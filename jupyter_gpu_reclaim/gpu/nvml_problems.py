"""What a failing driver means to the person who must act: what is wrong, what follows from it, how to cure it."""

from __future__ import annotations

# NVML's return codes that have a cure of their own (nvml.h, nvmlReturn_t).
NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, TIMEOUT, LIBRARY_NOT_FOUND = 3, 4, 9, 10, 12
FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, OPERATING_SYSTEM, VERSION_MISMATCH = 13, 15, 16, 17, 18

_OF_THE_DRIVER = {
    None: "NVML works but shows no GPU: check `nvidia-smi -L`; in a container, start it with the GPU (--gpus all).",
    LIBRARY_NOT_FOUND: (
        "NVML (libnvidia-ml.so.1) is not there: install the NVIDIA driver; in a container, start it with the GPU "
        "(--gpus all) and NVIDIA_DRIVER_CAPABILITIES=compute,utility."
    ),
    DRIVER_NOT_LOADED: "The NVIDIA driver is not loaded: run `modprobe nvidia`, or reboot; `nvidia-smi` must work.",
    VERSION_MISMATCH: (
        "The NVIDIA driver's library and its kernel module are of different versions, as after an update: "
        "reboot, or unload and load the nvidia modules; in a container, start it anew."
    ),
    NO_PERMISSION: (
        "This user may not ask the NVIDIA driver: give it read and write access to /dev/nvidia* "
        "(their group, or the container's devices)."
    ),
    OPERATING_SYSTEM: (
        "The operating system keeps this process from the GPUs: check the device rules of its cgroup or container."
    ),
    FUNCTION_NOT_FOUND: "The NVIDIA driver is too old for NVML's present interface: update it to 525 or newer.",
    TIMEOUT: "The NVIDIA driver did not answer in time: look for Xid messages in `dmesg`; if it stays so, reboot.",
}
_OF_A_GPU = {
    GPU_IS_LOST: "has fallen off the bus: look for Xid messages in `dmesg`, then reset the GPU or reboot.",
    RESET_REQUIRED: "needs a reset before it can be used: end its processes and run `nvidia-smi -r`, or reboot.",
    NO_PERMISSION: "may not be read by this user: give it read and write access to the GPU's /dev/nvidia* file.",
    OPERATING_SYSTEM: "is kept from this process: check the device rules of its cgroup or container.",
    NOT_SUPPORTED: "does not tell how much memory is in use, as GPUs that share the host's memory do not.",
    FUNCTION_NOT_FOUND: "is driven by a driver too old to tell what is needed: update it to 525 or newer.",
    TIMEOUT: "did not answer in time: look for Xid messages in `dmesg`; if it stays so, reset the GPU or reboot.",
}


def driver_problem(code: int | None, words: str) -> str:
    """Why no GPU at all can be read. `code` None: there is none; `words` are NVML's own for the code."""
    cause = _OF_THE_DRIVER.get(code) or (
        f"NVML cannot be used ({words}, code {code}): check that `nvidia-smi` works; if it does not, reload the driver."
    )
    return f"{cause} Until then nothing is reclaimed."


def gpu_problem(gpu: str, code: int, words: str) -> str:
    """Why one GPU cannot be read. Nothing is then reclaimed from it; the other GPUs are not concerned."""
    cause = _OF_A_GPU.get(code) or f"cannot be read ({words}, code {code}): check that `nvidia-smi` shows it."
    return f"{gpu} {cause} Until then nothing is reclaimed from it."


def partial_problem(gpu: str, what: str, code: int, words: str) -> str:
    """Why a part of what is asked about a GPU (`what`, in the plural) is unknown; the rest was read."""
    cause = (
        _OF_A_GPU.get(code) or f"did not answer ({words}, code {code}): if it stays so, check `nvidia-smi`."
    )
    return f"The {what} of {gpu} are unknown, since it {cause}"
