"""The board's layout in memory, field by field as csrc/board.h has it, and its rows as plain values.

Both sides check magic, version and size when they open a board.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

MAGIC, VERSION = 0x55504753, 1
DEVICES, PROCESSES, FAULTS = 8, 128, 32
MEASURED = 0xFFFFFFFF  # Device.utilization: derive it from the processes
SYNTHETIC, MEMORY_UNKNOWN, GRAPHICS = 1, 2, 4  # Process.flags
POISON, PROTECT, DELAY_COPIES, KEEP_MAPPED, WARM_PAGES = 1, 2, 4, 8, 16  # Layout.modes


class Device(ctypes.Structure):
    """One GPU."""

    _fields_ = [
        ("name", ctypes.c_char * 64),
        ("uuid", ctypes.c_char * 48),
        ("bus_id", ctypes.c_char * 32),
        ("total_bytes", ctypes.c_uint64),
        ("reserved_bytes", ctypes.c_uint64),
        ("other_used_bytes", ctypes.c_uint64),
        ("energy_mj", ctypes.c_uint64),
        ("utilization", ctypes.c_uint32),
        ("memory_utilization", ctypes.c_uint32),
        ("idle_power_mw", ctypes.c_uint32),
        ("busy_power_mw", ctypes.c_uint32),
    ]


class Process(ctypes.Structure):
    """What one process holds and does on one device."""

    _fields_ = [
        ("pid", ctypes.c_int32),
        ("device", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("born", ctypes.c_uint64),
        ("used_bytes", ctypes.c_uint64),
        ("window_start_us", ctypes.c_uint64),
        ("compute_us", ctypes.c_uint64),
        ("copy_us", ctypes.c_uint64),
        ("last_busy_us", ctypes.c_uint64),
    ]


class Fault(ctypes.Structure):
    """A scripted fault; an empty `call` is a free slot."""

    _fields_ = [
        ("call", ctypes.c_char * 56),
        ("code", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("skip", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("pid", ctypes.c_int32),
        ("delay_ms", ctypes.c_int32),
    ]


class Layout(ctypes.Structure):
    """The whole file."""

    _fields_ = [
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("bytes", ctypes.c_uint32),
        ("device_count", ctypes.c_uint32),
        ("modes", ctypes.c_uint32),
        ("armed", ctypes.c_uint32),
        ("cuda_version", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("driver", ctypes.c_char * 32),
        ("context_bytes", ctypes.c_uint64),
        ("device", Device * DEVICES),
        ("process", Process * PROCESSES),
        ("fault", Fault * FAULTS),
    ]

    def is_current(self) -> bool:
        """Whether this is a board, and of this version."""
        return (self.magic, self.version, self.bytes) == (MAGIC, VERSION, ctypes.sizeof(Layout))


@dataclass(frozen=True)
class BoardGpu:
    """One simulated GPU. `used_bytes` is what processes and strangers hold, the driver's reserve not counted."""

    index: int
    name: str
    uuid: str
    total_bytes: int
    reserved_bytes: int
    other_used_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        """What an allocation could still get; never negative."""
        return max(0, self.total_bytes - self.reserved_bytes - self.used_bytes)


@dataclass(frozen=True)
class BoardProcess:
    """What one process holds on one GPU, context included. `last_busy_at` is Unix seconds, None for never."""

    pid: int
    device: int
    used_bytes: int
    synthetic: bool
    last_busy_at: float | None


def born(pid: int) -> int:
    """A live process's start time in clock ticks since boot, as csrc/board.h's board_born has it; 0 when it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat[stat.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19]) or 1
