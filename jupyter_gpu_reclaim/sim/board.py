"""Python's hand on the board, the file that the simulated torch device and the simulated NVML share (csrc/board.h).

A board can be read and edited while other processes work on it. Bytes are ints, spans seconds, devices given by index.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import secrets
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import layout
from .layout import BoardGpu, BoardProcess, born

MiB, GiB = 1 << 20, 1 << 30

FLIP_BIT = -1  # a fault code for "copy": the copy succeeds with one bit wrong


class Board:
    """One board file, mapped. Made by `create` or `attach`; `close` unmaps it, the file stays."""

    def __init__(self, path: Path, file_descriptor: int):
        self.path = path
        self._fd = file_descriptor
        self._close_file = weakref.finalize(self, os.close, file_descriptor)
        self._map = mmap.mmap(file_descriptor, ctypes.sizeof(layout.Layout))
        self._shared = layout.Layout.from_buffer(self._map)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        gpus: Iterable[tuple[str, int]] = (("GPU 8 GB", 8 * GiB),),
        *,
        context_bytes: int = 128 * MiB,
        reserved_bytes: int = 0,
        poison: bool = False,
        series: int | None = None,
    ) -> Board:
        """A new board at `path`, in place of whatever file was there.

        `gpus` are (name, total bytes), at most 8; every name is made to begin with "Simulated". `context_bytes` is what
        each process pays on each device it touches, `reserved_bytes` what the driver keeps of each device; `poison` is
        the method of that name. `series` (32 bits) is part of the GPUs' UUIDs; by default no two boards have the same.
        """
        gpus = list(gpus)
        if not 1 <= len(gpus) <= layout.DEVICES:
            raise ValueError(f"a board has 1 to {layout.DEVICES} GPUs, not {len(gpus)}")
        shared = layout.Layout(
            magic=layout.MAGIC,
            version=layout.VERSION,
            bytes=ctypes.sizeof(layout.Layout),
            device_count=len(gpus),
        )
        shared.modes = layout.POISON if poison else 0
        shared.cuda_version, shared.driver, shared.context_bytes = 13000, b"580.65-simulated", context_bytes
        series = secrets.randbits(32) if series is None else series
        for index, (name, total) in enumerate(gpus):
            device = shared.device[index]
            device.name = (name if name.startswith("Simulated") else f"Simulated {name}").encode()[:63]
            device.uuid = b"GPU-5150c0de-0000-4000-8000-%08x%04x" % (series, index + 1)
            device.bus_id = b"00000000:%02X:00.0" % (index + 1)
            device.total_bytes, device.reserved_bytes = total, reserved_bytes
            device.utilization = layout.MEASURED
            device.idle_power_mw, device.busy_power_mw = 25_000, 250_000
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
        fresh.write_bytes(bytes(shared))
        fresh.chmod(0o600)
        fresh.replace(path)
        return cls.attach(path)

    @classmethod
    def attach(cls, path: str | os.PathLike[str]) -> Board:
        """The board at `path`. Raises FileNotFoundError, or ValueError for a file that is no board of this version."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no board at {path}; make one with Board.create") from error
        board = cls(Path(path), fd) if os.fstat(fd).st_size >= ctypes.sizeof(layout.Layout) else None
        if board is None or not board._shared.is_current():
            os.close(fd) if board is None else board.close()
            raise ValueError(f"{path} is no board of this version of the simulated GPU; create it anew")
        return board

    def close(self) -> None:
        """Unmap the file; the board object is of no use afterwards."""
        del self._shared
        self._map.close()
        self._close_file()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @contextmanager
    def _locked(self) -> Iterator[layout.Layout]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield self._shared
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    # --- what is on the board

    def gpus(self) -> list[BoardGpu]:
        """Every GPU, in index order; rows of dead processes do not count."""
        processes = self.processes()
        rows = []
        for index in range(self._shared.device_count):
            device = self._shared.device[index]
            held = sum(process.used_bytes for process in processes if process.device == index)
            rows.append(
                BoardGpu(
                    index,
                    device.name.decode(),
                    device.uuid.decode(),
                    device.total_bytes,
                    device.reserved_bytes,
                    device.other_used_bytes,
                    device.other_used_bytes + held,
                )
            )
        return rows

    def processes(self) -> list[BoardProcess]:
        """Every (process, device) row of a live or synthetic process."""
        with self._locked() as shared:
            return [
                BoardProcess(
                    row.pid,
                    row.device,
                    row.used_bytes,
                    bool(row.flags & layout.SYNTHETIC),
                    row.last_busy_us / 1e6 if row.last_busy_us else None,
                )
                for row in shared.process
                if row.pid and (row.flags & layout.SYNTHETIC or born(row.pid) == row.born)
            ]

    def used_bytes(self, pid: int, device: int = 0) -> int:
        """What a process holds on a device, context included; 0 where it has no row."""
        return sum(row.used_bytes for row in self.processes() if (row.pid, row.device) == (pid, device))

    # --- what a test makes of the world

    def set_other_used(self, used_bytes: int, device: int = 0) -> None:
        """Bytes held by strangers that NVML lists no process for."""
        self._shared.device[device].other_used_bytes = used_bytes

    def set_utilization(self, percent: int | None, memory_percent: int = 0, device: int = 0) -> None:
        """What NVML says about the whole device; None: again what the processes' work gives."""
        self._shared.device[device].memory_utilization = memory_percent
        self._shared.device[device].utilization = layout.MEASURED if percent is None else percent

    def set_power(self, idle_watts: float, busy_watts: float, device: int = 0) -> None:
        """The device's draw at 0 % and at 100 % utilisation; in between it is linear."""
        self._shared.device[device].idle_power_mw = round(idle_watts * 1000)
        self._shared.device[device].busy_power_mw = round(busy_watts * 1000)

    def add_process(
        self,
        pid: int,
        used_bytes: int,
        device: int = 0,
        *,
        memory_known: bool = True,
        graphics: bool = False,
    ) -> None:
        """A row that no process keeps and nobody reaps; its bytes are taken from the device.

        Without `memory_known` NVML says "not available" for its memory; `graphics` lists it as a graphics process.
        """
        with self._locked() as shared:
            row = next((row for row in shared.process if not row.pid), None)
            if row is None:
                raise RuntimeError(f"the board has no room for more than {layout.PROCESSES} rows")
            ctypes.memset(ctypes.addressof(row), 0, ctypes.sizeof(row))
            row.device, row.used_bytes = device, used_bytes
            row.flags = (
                layout.SYNTHETIC
                | (0 if memory_known else layout.MEMORY_UNKNOWN)
                | (layout.GRAPHICS if graphics else 0)
            )
            row.pid = pid

    def remove_process(self, pid: int) -> None:
        """Drop the synthetic rows of a pid."""
        with self._locked() as shared:
            for row in shared.process:
                if row.pid == pid and row.flags & layout.SYNTHETIC:
                    ctypes.memset(ctypes.addressof(row), 0, ctypes.sizeof(row))

    def note_busy(self, pid: int, device: int = 0, percent: int = 50, at: float | None = None) -> None:
        """Give a pid's row a utilisation sample of `percent`, at Unix time `at` (now by default)."""
        now = int((time.time() if at is None else at) * 1e6)
        with self._locked() as shared:
            for row in shared.process:
                if (row.pid, row.device) == (pid, device):
                    row.window_start_us, row.compute_us, row.last_busy_us = (
                        now - 1_000_000,
                        percent * 10_000,
                        now,
                    )

    # --- what goes wrong, and the modes that expose mistakes

    def set_fault(
        self,
        call: str,
        code: int,
        *,
        count: int = -1,
        skip: int = 0,
        device: int = -1,
        pid: int = 0,
        delay: float = 0.0,
    ) -> None:
        """Make calls fail: NVML functions by name ("nvmlDeviceGetMemoryInfo_v2") or prefix ("nvmlDevice*"), and of the
        torch device "alloc" (out of memory), "copy", "operator", "synchronize", "empty_cache" (torch.AcceleratorError).

        The first `skip` matching calls pass, the next `count` fail (-1: all) with `code`, on one `device` or all (-1),
        in one process or all (0). `delay` seconds pass before each; with code 0 the call is then only slow.
        """
        with self._locked() as shared:
            slot = next((fault for fault in shared.fault if not fault.call), None)
            if slot is None:
                raise RuntimeError(
                    f"the board has no room for more than {layout.FAULTS} faults; clear_faults() first"
                )
            slot.code, slot.count, slot.skip, slot.device, slot.pid = code, count, skip, device, pid
            slot.delay_ms = round(delay * 1000)
            slot.call = call.encode()
            shared.armed += 1

    def clear_faults(self) -> None:
        """Everything works again."""
        with self._locked() as shared:
            shared.armed = 0
            for fault in shared.fault:
                fault.call = b""

    def _mode(self, flag: int, on: bool) -> None:
        with self._locked() as shared:
            shared.modes = shared.modes | flag if on else shared.modes & ~flag

    def poison(self, on: bool = True) -> None:
        """Fill freed device memory with 0xCD, so that a stale pointer reads rubbish instead of the old value."""
        self._mode(layout.POISON, on)

    def keep_mapped(self, on: bool = True) -> None:
        """Leave memory given back to the board mapped (and poisoned): a stale read shows 0xCD instead of SIGSEGV."""
        self._mode(layout.KEEP_MAPPED, on)

    def protect(self, on: bool = True) -> None:
        """Make device memory inaccessible outside the device's operators: host code that touches it gets SIGSEGV.

        Set it before a process first uses the device.
        """
        self._mode(layout.PROTECT, on)

    def delay_copies(self, on: bool = True) -> None:
        """Run non_blocking copies between host and device only when something must wait for them.

        What must: a synchronize, a wait for an event, an operator or a blocking copy on the same device, empty_cache.
        Stricter than CUDA for pageable host memory, which CUDA stages at once.
        """
        self._mode(layout.DELAY_COPIES, on)

    def warm_pages(self, on: bool = True) -> None:
        """Let a process keep the host memory of segments it gave back, and touch that of new ones when it takes them.

        For measuring: a copy then costs copying alone, since a real device has no page faults. The board's accounting
        is the same; the host memory stays with the process until it ends.
        """
        self._mode(layout.WARM_PAGES, on)
