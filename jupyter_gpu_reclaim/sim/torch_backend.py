"""The torch device "simgpu". This module is `torch.simgpu`: what `torch.cuda` is for CUDA, where programs ask for it.

`import torch` calls `autoload` at its end, through the entry point group torch.backends.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch

BOARD_VARIABLE = "JUPYTER_GPU_RECLAIM_SIM_BOARD"  # path of the board file; unset: no simulated GPU anywhere

_lib: Any = None  # the loaded device library


def autoload() -> None:
    """Register the device when the environment names a board; do nothing otherwise. Never raises.

    `import torch` would fail for the user if this raised: it says what is wrong, and the cure, on stderr.
    """
    board = os.environ.get(BOARD_VARIABLE)
    if not board:
        return
    try:
        register(board)
    except Exception as error:
        print(f"jupyter_gpu_reclaim: no simulated GPU in this process: {error}", file=sys.stderr, flush=True)


def register(board: str) -> None:
    """Load the device library (built if needed) and make it torch's device "simgpu". A second call does nothing.

    Raises `build.CannotBuild`, and what `Board.attach` raises for a path that is no board.
    """
    from . import notebook_names
    from .board import Board
    from .build import torch_device_library

    global _lib
    if _lib is not None:
        return
    Board.attach(board).close()
    path = torch_device_library()
    torch.ops.load_library(str(path))
    library = ctypes.CDLL(str(path))
    library.simgpu_device_name.restype = library.simgpu_device_uuid.restype = ctypes.c_char_p
    library.simgpu_device_bytes.restype = ctypes.c_uint64
    library.simgpu_snapshot.restype = ctypes.c_int64
    _lib = library
    globals().update({name: item for name, item in vars(notebook_names).items() if not name.startswith("_")})
    torch.utils.rename_privateuse1_backend("simgpu")
    torch._register_device_module("simgpu", sys.modules[__name__])
    sys.modules["torch.simgpu.amp"] = notebook_names.amp  # for `from torch.simgpu.amp import autocast`
    torch.utils.generate_methods_for_privateuse1_backend(for_tensor=True, for_module=True, for_storage=True)
    # Notebooks set and print these; here, too, they change nothing.
    torch.backends.simgpu, torch.version.simgpu = torch.backends.cuda, None


def _index(device: Any = None) -> int:
    """A device index from an index, a name, a torch.device or None (the current one)."""
    if device is None:
        return current_device()
    if isinstance(device, int):
        return device
    device = torch.device(device)
    return current_device() if device.index is None else device.index


# --- devices


def is_available() -> bool:
    """Whether the board has a GPU."""
    return device_count() > 0


def is_initialized() -> bool:
    """Whether this process has touched a device (and pays for a context)."""
    return bool(_lib.simgpu_in_use())


def _lazy_init() -> None:
    """Nothing to prepare: a device is set up when it is first touched."""


def _is_in_bad_fork() -> bool:
    """Whether this is a forked child of a process that used the device."""
    return bool(_lib.simgpu_forked())


def device_count() -> int:
    """How many GPUs the board has."""
    return _lib.simgpu_device_count()


def current_device() -> int:
    """The current device's index, of this thread."""
    return torch.accelerator.current_device_index()


def set_device(device: Any) -> None:
    """Make a device this thread's current one; a negative index does nothing."""
    if _index(device) >= 0:
        torch.accelerator.set_device_index(_index(device))


class device:
    """A context in which a device is the current one; None and negative indices change nothing."""

    def __init__(self, device: Any):
        self._scope = torch.accelerator.device_index(
            None if device is None or _index(device) < 0 else _index(device)
        )

    def __enter__(self) -> device:
        self._scope.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._scope.__exit__(*exc_info)


@dataclass(frozen=True)
class DeviceProperties:
    """A GPU's properties; `uuid` without the "GPU-" prefix, as torch.cuda has it."""

    name: str
    uuid: str
    total_memory: int
    major: int = 0
    minor: int = 0
    multi_processor_count: int = 1


def get_device_properties(device: Any = None) -> DeviceProperties:
    """The properties of a device. Raises RuntimeError for an index the board has not."""
    index = _index(device)
    if not 0 <= index < device_count():
        raise RuntimeError(f"invalid device ordinal {index}: the board has {device_count()} simulated GPU(s)")
    uuid = _lib.simgpu_device_uuid(index).decode()
    return DeviceProperties(
        _lib.simgpu_device_name(index).decode(), uuid.removeprefix("GPU-"), _lib.simgpu_device_bytes(index)
    )


def get_device_name(device: Any = None) -> str:
    """The device's name; it begins with "Simulated"."""
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """(0, 0): no CUDA code runs here."""
    return (0, 0)


def synchronize(device: Any = None) -> None:
    """Wait for the copies that the device still owes (there are some only where the board delays them)."""
    torch.accelerator.synchronize(_index(device))


# --- memory

empty_cache = torch.accelerator.empty_cache
OutOfMemoryError = torch.OutOfMemoryError


def memory_allocated(device: Any = None) -> int:
    """Bytes of live tensors on the device, of this process."""
    return torch.accelerator.memory_allocated(_index(device))


def memory_reserved(device: Any = None) -> int:
    """Bytes this process has taken from the device, its cache included, its context not."""
    return torch.accelerator.memory_reserved(_index(device))


def max_memory_allocated(device: Any = None) -> int:
    """The highest `memory_allocated` so far."""
    return torch.accelerator.max_memory_allocated(_index(device))


def max_memory_reserved(device: Any = None) -> int:
    """The highest `memory_reserved` so far."""
    return torch.accelerator.max_memory_reserved(_index(device))


def reset_peak_memory_stats(device: Any = None) -> None:
    """Let the two above begin anew."""
    torch.accelerator.reset_peak_memory_stats(_index(device))


def memory_stats(device: Any = None) -> dict[str, Any]:
    """The allocator's counters, by torch.accelerator's names."""
    return torch.accelerator.memory_stats(_index(device))


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the device, for all processes together."""
    return torch.accelerator.get_memory_info(_index(device))


def memory_snapshot(mempool_id: Any = None) -> list[dict[str, Any]]:
    """The allocator's segments with their blocks, in torch.cuda.memory_snapshot()'s format."""
    room = _lib.simgpu_snapshot(None, ctypes.c_int64(0)) + 64
    while True:
        rows = (ctypes.c_int64 * (room * 8))()
        count = _lib.simgpu_snapshot(rows, ctypes.c_int64(room))
        if count <= room:
            break
        room = count + 64
    numbers = memoryview(rows).cast("B").cast("q")[: count * 8].tolist()
    columns = [numbers[column::8] for column in range(8)]
    *of_segment, addresses, sizes, requests, lives = columns
    blocks = [
        {"address": at, "size": size, "requested_size": requested, "state": _STATES[live], "frames": []}
        for at, size, requested, live in zip(addresses, sizes, requests, lives, strict=True)
    ]
    return [
        _segment(key, [block for _, block in of_one])
        for key, of_one in groupby(zip(zip(*of_segment, strict=True), blocks, strict=True), itemgetter(0))
    ]


_STATES = ("inactive", "active_allocated")


def _segment(key: tuple[int, int, int, int], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    index, small, address, size = key
    live = [block for block in blocks if block["state"] == "active_allocated"]
    allocated = sum(block["size"] for block in live)
    return {
        "device": index,
        "address": address,
        "total_size": size,
        "allocated_size": allocated,
        "active_size": allocated,
        "requested_size": sum(block["requested_size"] for block in live),
        "stream": 0,
        "segment_type": "small" if small else "large",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": blocks,
    }
