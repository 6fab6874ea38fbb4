"""How much more host memory this process may take, its control groups' limits (a container's, a pod's) included."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

# The file of a limit, of the usage it is held against, and the line of memory.stat that tells the cache to be given up.
LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    (
        "memory.high",
        "memory.current",
        "inactive_file",
    ),  # beyond it the kernel slows the group down to a crawl
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)
UNLIMITED = 1 << 60  # version 1 says "no limit" as a number beyond any machine; version 2 says "max"


# The most host memory that one move may hold in all, in bytes (None: no limit), and a sentence on why no more, or "".
HostLimit = namedtuple("HostLimit", ("nbytes", "because"))


class _Unknown(Exception):
    """Something that should tell a figure cannot be read, or tells none."""


def available_host_bytes(
    proc_root: str | Path = "/proc", cgroup_root: str | Path = "/sys/fs/cgroup"
) -> int | None:
    """Bytes that can still be taken before the tightest limit; 0 or more. None: unknown, since something is unreadable.

    The smallest of the kernel's MemAvailable and, for the memory control group of this process and every one above it,
    limit − usage + the file cache that is given up first. In a container the groups above its own are out of sight.
    """
    try:
        rooms = [_room(group) for group in _groups(str(proc_root), str(cgroup_root))]
        available = _mem_available(os.path.join(proc_root, "meminfo"))
        return max(0, min([available, *(room for room in rooms if room is not None)]))
    except (_Unknown, OSError, ValueError):
        return None


def host_limit(granted_bytes: int | None, kept_bytes: int, reserve_bytes: int) -> HostLimit:
    """The tighter of what was granted and what this process's own limits leave now beside the reserve.

    Who granted it may live in another control group. `kept_bytes` are held by this process already, for this.
    """
    available = available_host_bytes()
    if available is None:  # cannot be read here; who granted it has looked
        return HostLimit(granted_bytes, "")
    own = kept_bytes + max(0, available - reserve_bytes)
    if granted_bytes is not None and granted_bytes <= own:
        return HostLimit(granted_bytes, "")
    because = " This kernel's control groups and the machine leave it {} bytes, of which {} are a reserve."
    return HostLimit(own, because.format(available, reserve_bytes))


def _mem_available(meminfo: str) -> int:
    for line in _read(meminfo).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.removesuffix("kB")) * 1024
    raise _Unknown(f"{meminfo} has no MemAvailable")


def _groups(proc: str, root: str) -> Iterator[str]:
    """The folders of this process's memory control group and of those above it, innermost first."""
    for line in (_text(f"{proc}/self/cgroup") or "").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0" and not controllers:
            mount = root
        elif "memory" in controllers.split(","):
            mount = f"{root}/memory"
        else:
            continue
        # A container may be told the host's path while it sees only its own group, as the mount's root: that one is
        # among those above. What lies outside its namespace (..) cannot be followed.
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for depth in range(len(parts), -1, -1):
            yield "/".join([mount, *parts[:depth]])


def _room(group: str) -> int | None:
    """What is left of one group's limit, in bytes; None where it has none."""
    rooms = []
    for limit_file, usage_file, cache in LIMITS:
        limit = _text(f"{group}/{limit_file}")
        if limit is None or limit.strip() == "max" or int(limit) >= UNLIMITED:
            continue
        usage = int(_read(f"{group}/{usage_file}"))
        rooms.append(int(limit) - usage + min(usage, _statistic(f"{group}/memory.stat", cache)))
    return min(rooms, default=None)


def _statistic(file: str, name: str) -> int:
    for line in (_text(file) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _text(file: str) -> str | None:
    """The file's text; None for one that does not exist. One that is not ours to read raises OSError."""
    try:
        return _read(file)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read(file: str) -> str:
    """Each tick of a server reads some of these, and buffered text files take three times as long."""
    opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(opened, 1 << 16):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(opened)
