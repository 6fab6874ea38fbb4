"""`available_host_bytes` on trees as Linux, Docker and Kubernetes lay them out, and on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_gpu_reclaim.agent.host_limits import available_host_bytes

MiB, GiB = 1 << 20, 1 << 30
NO_LIMIT = "9223372036854771712"  # what version 1 says for none


class Machine:
    """A /proc and a /sys/fs/cgroup in a folder."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroup = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.cgroup.mkdir()

    def memory(self, available: int) -> Machine:
        """Let MemAvailable be so many bytes."""
        lines = [
            f"MemTotal: {64 * GiB // 1024} kB",
            f"MemAvailable:   {available // 1024} kB",
            "HugePages_Total: 0",
        ]
        (self.proc / "meminfo").write_text("\n".join(lines))
        return self

    def member_of(self, *lines: str) -> Machine:
        """Let these be the lines of /proc/self/cgroup."""
        (self.proc / "self" / "cgroup").write_text("\n".join(lines) + "\n")
        return self

    def group(self, path: str, **files: object) -> Machine:
        """Let a control group have these files; `__` in a name stands for a dot."""
        folder = self.cgroup / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name.replace("__", ".")).write_text(f"{value}\n")
        return self

    def available(self) -> int | None:
        """What the function says of this machine."""
        return available_host_bytes(self.proc, self.cgroup)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with 40 GiB available, in which nothing is limited."""
    return Machine(tmp_path).memory(40 * GiB).member_of("0::/")


def stat(inactive: int, name: str = "inactive_file") -> str:
    """A memory.stat with so much file cache that is given up first."""
    return f"anon {3 * GiB}\nfile {2 * GiB}\n{name} {inactive}\nactive_file {GiB}"


def test_nothing_but_the_machine_limits(machine: Machine) -> None:
    """Without a limit it is the kernel's own estimate, whether groups are at the root, absent or unlimited."""
    assert machine.available() == 40 * GiB
    machine.group("user.slice", memory__max="max", memory__high="max", memory__current=GiB)
    assert machine.member_of("0::/user.slice").available() == 40 * GiB
    (machine.proc / "self" / "cgroup").unlink()
    assert machine.available() == 40 * GiB


def test_a_limit_of_version_2(machine: Machine) -> None:
    """What a group may still take is its limit less its usage, cache that is given up first not counted."""
    machine.member_of("0::/pod")
    machine.group("pod", memory__max=8 * GiB, memory__current=5 * GiB, memory__stat=stat(inactive=GiB))
    assert machine.available() == 4 * GiB


def test_the_tightest_of_all_ancestors_wins(machine: Machine) -> None:
    """A limit anywhere above the process holds, however roomy its own group is."""
    machine.member_of("0::/kubepods/pod/container")
    machine.group("kubepods/pod/container", memory__max=16 * GiB, memory__current=GiB, memory__stat=stat(0))
    machine.group("kubepods/pod", memory__max=8 * GiB, memory__current=6 * GiB, memory__stat=stat(0))
    machine.group("kubepods", memory__max=32 * GiB, memory__current=20 * GiB, memory__stat=stat(0))
    assert machine.available() == 2 * GiB


def test_the_limit_beyond_which_the_kernel_throttles(machine: Machine) -> None:
    """memory.high holds too: a process beyond it is slowed down to a crawl."""
    machine.member_of("0::/pod")
    machine.group(
        "pod", memory__max=8 * GiB, memory__high=6 * GiB, memory__current=5 * GiB, memory__stat=stat(0)
    )
    assert machine.available() == 1 * GiB


def test_a_container_sees_its_own_group_as_the_root(machine: Machine) -> None:
    """With a namespace of its own a container's limit is found at the mount's root, even if the path leads out."""
    machine.group(".", memory__max=4 * GiB, memory__current=GiB, memory__stat=stat(0))
    assert machine.member_of("0::/").available() == 3 * GiB
    assert machine.member_of("0::/../../elsewhere").available() == 3 * GiB


@pytest.mark.parametrize("controllers", ["memory", "cpu,memory"])
def test_a_limit_of_version_1(machine: Machine, controllers: str) -> None:
    """Version 1's limit and its ancestors' hold; its way to say "none" is understood."""
    machine.member_of("5:cpuset:/docker/a", f"4:{controllers}:/docker/a", "1:name=systemd:/docker/a", "0::/")
    machine.group(
        "memory/docker/a",
        memory__limit_in_bytes=8 * GiB,
        memory__usage_in_bytes=5 * GiB,
        memory__stat=stat(inactive=GiB, name="total_inactive_file"),
    )
    machine.group("memory/docker", memory__limit_in_bytes=NO_LIMIT, memory__usage_in_bytes=6 * GiB)
    assert machine.available() == 4 * GiB
    machine.group("memory", memory__limit_in_bytes=6 * GiB, memory__usage_in_bytes=6 * GiB - MiB)
    assert machine.available() == MiB


def test_a_container_of_version_1_that_is_told_the_hosts_path(machine: Machine) -> None:
    """Docker without namespaces names a path that the container does not see; its own group is the mount's root."""
    machine.member_of("4:memory:/docker/0123abc")
    machine.group("memory", memory__limit_in_bytes=2 * GiB, memory__usage_in_bytes=GiB, memory__stat=stat(0))
    assert machine.available() == 1 * GiB


def test_never_more_than_the_machine_has(machine: Machine) -> None:
    """A limit above what the machine has left changes nothing."""
    machine.member_of("0::/pod").group("pod", memory__max=512 * GiB, memory__current=GiB)
    assert machine.available() == 40 * GiB


def test_over_the_limit_is_nothing_left(machine: Machine) -> None:
    """A limit set below the usage leaves nothing, not less than nothing."""
    machine.member_of("0::/pod").group("pod", memory__max=GiB, memory__current=2 * GiB, memory__stat=stat(0))
    assert machine.available() == 0


def test_what_is_unreadable_is_unknown(machine: Machine) -> None:
    """A figure that is there but cannot be read or understood makes the answer None, never an exception."""
    machine.member_of("0::/pod").group("pod", memory__max="a lot", memory__current=GiB)
    assert machine.available() is None
    machine.group("pod", memory__max=8 * GiB)
    (machine.cgroup / "pod" / "memory.current").unlink()
    assert machine.available() is None
    (machine.cgroup / "pod" / "memory.current").mkdir()
    assert machine.available() is None
    machine.member_of("0::/")
    assert machine.available() == 40 * GiB
    (machine.proc / "meminfo").write_text("MemTotal: 1 kB\n")
    assert machine.available() is None
    (machine.proc / "meminfo").write_bytes(b"\xff\xfe")
    assert machine.available() is None
    (machine.proc / "meminfo").unlink()
    assert machine.available() is None


def test_this_machine() -> None:
    """On the real machine it is some of the memory that is there."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_host_bytes() < there
