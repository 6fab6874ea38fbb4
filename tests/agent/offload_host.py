"""Scenarios: where the bytes lie while they are away, in host memory and on disk, and what happens without room."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from offload_faults import _raised, _Subject
from offload_training import DEVICE

from jupyter_gpu_reclaim.agent.torch_offload import SpillRoom

MIB = 1 << 20
ROOM_BYTES = 20 * MIB  # of host memory: less than what is moved


def _tensors() -> list[torch.Tensor]:
    """64 MiB in large and in small pieces, all different."""
    generator = torch.Generator().manual_seed(3)
    sizes = [40 * MIB, 20 * MIB] + [MIB // 256] * 1000
    return [torch.randint(0, 255, (n,), dtype=torch.uint8, generator=generator).to(DEVICE) for n in sizes]


def _bits(tensors: list[torch.Tensor]) -> list[bytes]:
    return [tensor.cpu().numpy().tobytes() for tensor in tensors]


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _resident_bytes(address: int) -> int:
    """How much of the mapping at this address has pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            start, end = (int(part, 16) for part in head.split("-"))
            inside = start <= address < end
        elif inside and head == "Rss:":
            return int(line.split()[1]) * 1024
    raise AssertionError("no such mapping")


@contextmanager
def _disk(limit_bytes: int = 1 << 30) -> Iterator[SpillRoom]:
    with tempfile.TemporaryDirectory(dir=os.environ["SPILL_TEST_DISK"]) as folder:
        yield SpillRoom(folder, limit_bytes)


def spilled(bench: Any) -> dict[str, Any]:
    """What finds no room in memory goes to disk, in a file that has no name."""
    tensors = _tensors()
    before, files = _bits(tensors), _open_files()
    with _disk() as room:
        bench.mechanism.release_host_buffer()
        result = bench.offload(host_limit_bytes=ROOM_BYTES, spill_room=room)
        away = {"names": os.listdir(room.folder), "files": _open_files() - files}
        host_bytes = bench.mechanism.host_bytes
        bench.onload()
    return {
        **away,
        "in_memory": host_bytes,
        "sum": host_bytes + result.spilled_bytes - result.moved_bytes,
        "closed": _open_files() == files,
        "equal": _bits(tensors) == before,
        "again": bench.cycle().spilled_bytes,
    }


def _refused(bench: Any, **arguments: Any) -> dict[str, Any]:
    subject, files = _Subject(bench), _open_files()
    more = _tensors()
    before = _bits(more)
    subject.allocated = bench.allocated()
    error = _raised(bench.offload, host_limit_bytes=ROOM_BYTES, **arguments)
    untouched = subject.untouched() and _bits(more) == before
    return {
        "error": type(error).__name__,
        "message": str(error),
        "untouched": untouched,
        "closed": _open_files() == files,
        "works_after": bench.cycle().spilled_bytes == 0 and subject.as_before() and _bits(more) == before,
    }


def disk_full_in_the_middle(bench: Any) -> dict[str, Any]:
    """The disk takes 10 MiB and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with _disk() as room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * MIB, hard))
        try:
            return _refused(bench, spill_room=room)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def spill_limit(bench: Any) -> dict[str, Any]:
    """The limit allows less than what is left over."""
    with _disk(10 * MIB) as room:
        return _refused(bench, spill_room=room)


def no_disk(bench: Any) -> dict[str, Any]:
    """The folder lies in memory."""
    return _refused(bench, spill_room=SpillRoom("/dev/shm", 1 << 30))


def no_folder(bench: Any) -> dict[str, Any]:
    """There is no such folder."""
    return _refused(bench, spill_room=SpillRoom("/nowhere", 1 << 30))


def damaged_on_disk(bench: Any) -> dict[str, Any]:
    """A byte on the disk changes, and changes back."""
    tensors = _tensors()
    before = _bits(tensors)
    with _disk() as room:
        bench.offload(host_limit_bytes=ROOM_BYTES, spill_room=room)
        (file,) = [
            int(name)
            for name in os.listdir("/proc/self/fd")
            if os.path.realpath(f"/proc/self/fd/{name}").startswith(room.folder)
        ]
        right = os.pread(file, 1, 5 * MIB)
        os.pwrite(file, bytes([right[0] ^ 4]), 5 * MIB)
        error = _raised(bench.onload)
        still_away = bench.mechanism.offloaded
        os.pwrite(file, right, 5 * MIB)
        bench.onload()
    return {
        "error": type(error).__name__,
        "message": str(error),
        "memory_intact": error.memory_intact,
        "still_away": still_away,
        "equal": _bits(tensors) == before,
    }


def trimmed(bench: Any) -> dict[str, Any]:
    """A large episode, then a small one, then a large one again."""
    mechanism = bench.mechanism
    mechanism.release_host_buffer()
    small = torch.ones(20 * MIB, dtype=torch.uint8, device=DEVICE)
    large = [torch.ones(100 * MIB, dtype=torch.uint8, device=DEVICE)]
    bench.cycle()
    sizes = [mechanism.host_bytes]
    resident = [_resident_bytes(mechanism._host.slice(0, 1).data_ptr())]
    large.clear()
    torch.accelerator.empty_cache()
    bench.cycle()
    sizes.append(mechanism.host_bytes)
    resident.append(_resident_bytes(mechanism._host.slice(0, 1).data_ptr()))
    large.append(torch.full((100 * MIB,), 7, dtype=torch.uint8, device=DEVICE))
    bench.cycle()
    sizes.append(mechanism.host_bytes)
    equal = bool((small == 1).all()) and bool((large[0] == 7).all())
    return {"sizes": sizes, "resident": resident, "equal": equal}


def prepared(bench: Any) -> dict[str, Any]:
    """Host memory taken ahead, stopped at once, and beyond the limit."""
    mechanism = bench.mechanism
    mechanism.release_host_buffer()
    tensor = torch.arange(16 * MIB, dtype=torch.int32, device="cpu").to(DEVICE)
    mechanism.prepare(host_limit_bytes=MIB)
    beyond = mechanism.host_bytes
    mechanism.prepare(stopped=lambda: True)
    stopped = _resident_bytes(mechanism._host.slice(0, 1).data_ptr())
    mechanism.prepare()
    ahead = _resident_bytes(mechanism._host.slice(0, 1).data_ptr())
    address = mechanism._host.slice(0, 1).data_ptr()
    bench.offload()
    same = mechanism._host.slice(0, 1).data_ptr() == address
    mechanism.prepare()  # refused: the buffer holds the bytes
    bench.onload()
    return {
        "beyond": beyond,
        "stopped": stopped,
        "ahead": ahead,
        "same_buffer": same,
        "equal": torch.equal(tensor.cpu(), torch.arange(16 * MIB, dtype=torch.int32)),
    }
