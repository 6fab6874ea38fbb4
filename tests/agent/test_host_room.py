"""The host's limits around a real kernel: a control group that is too small, a disk, a cell that arrives meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kernel_rig import Rig

from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import environment

HELD_BYTES = 192 * MiB
FILL = "import torch\nx = torch.arange(24 * 2**20, dtype=torch.int64).to('simgpu')"
CHECK = "bool((x.cpu() == torch.arange(24 * 2**20, dtype=torch.int64)).all())"


@pytest.fixture
def gpu_rig(tmp_path: Path) -> Iterator[Rig]:
    """A kernel with 192 MiB of known values on a simulated GPU."""
    with Board.create(tmp_path / "board", [("8 GB", 8 << 30)], poison=True) as board:
        rig = Rig(sys.executable, tmp_path, **environment(board.path)).start()
        try:
            assert rig.kernel.run(FILL).status == "ok"
            yield rig
        finally:
            rig.stop()


def _memory_group() -> tuple[Path, str, str]:
    """This process's memory control group, and the names of its files for the limit and the usage."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            group = Path("/sys/fs/cgroup/memory" + path)
            return group, "memory.limit_in_bytes", "memory.usage_in_bytes"
        if number == "0" and (Path("/sys/fs/cgroup" + path) / "memory.max").exists():
            return Path("/sys/fs/cgroup" + path), "memory.max", "memory.current"
    pytest.skip("no control group here that limits memory")


@contextmanager
def control_group(pid: int, spare_bytes: int) -> Iterator[None]:
    """A real control group in which the process has so many bytes left; skips where none can be made."""
    parent, limit, usage = _memory_group()
    group = parent / f"gpu-reclaim-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made in {parent}: {error}")
    try:
        try:
            (group / "cgroup.procs").write_text(str(pid))
            (group / limit).write_text(str(int((group / usage).read_text()) + spare_bytes))
        except OSError as error:
            pytest.skip(f"{group} takes no process or no limit: {error}")
        yield
        (parent / "cgroup.procs").write_text(str(pid))
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (parent / "cgroup.procs").write_text(left)
        group.rmdir()


def test_a_control_group_smaller_than_the_footprint(gpu_rig: Rig) -> None:
    """The kernel is refused with the figures, not killed: its tensors stay, and once there is room it is reclaimed."""
    with control_group(gpu_rig.kernel.pid, HELD_BYTES // 2):
        reply = gpu_rig.server.ask("suspend", host_limit_bytes=10 * HELD_BYTES)
        assert (reply["outcome"], reply["reason"]) == ("refused", "host_memory")
        assert f"{HELD_BYTES} bytes of host memory are needed" in reply["detail"]
        assert "This kernel's control groups and the machine leave it" in reply["detail"]
        assert gpu_rig.phase() == "resident"
    gpu_rig.reclaim()
    gpu_rig.restore()
    assert gpu_rig.kernel.run(CHECK).text == "True"


def test_the_servers_limit_is_kept(gpu_rig: Rig) -> None:
    """A kernel that has grown beyond what it was granted is refused, and says by how much."""
    reply = gpu_rig.server.ask("suspend", host_limit_bytes=HELD_BYTES - 1)
    assert (reply["outcome"], reply["reason"]) == ("refused", "host_memory")
    assert reply["detail"] == f"{HELD_BYTES} bytes of host memory are needed, {HELD_BYTES - 1} are allowed."
    assert gpu_rig.kernel.run(CHECK).text == "True"


def test_a_killed_kernel_leaves_nothing_on_the_disk(gpu_rig: Rig) -> None:
    """While the bytes lie on disk no file has a name; killed then, the kernel leaves the folder empty."""
    folder = gpu_rig.folder / "spill"
    folder.mkdir()
    reply = gpu_rig.server.ask(
        "suspend", host_limit_bytes=HELD_BYTES // 2, spill_dir=str(folder), spill_limit_bytes=HELD_BYTES
    )
    assert reply["outcome"] == "done"
    assert HELD_BYTES // 2 <= reply["spilled_bytes"] < HELD_BYTES
    status = gpu_rig.server.ask("look")
    assert status["spilled_bytes"] == reply["spilled_bytes"]
    pid = gpu_rig.kernel.pid
    (file,) = [f for f in Path(f"/proc/{pid}/fd").iterdir() if os.readlink(f).startswith(str(folder))]
    assert os.stat(file).st_nlink == 0
    assert os.stat(file).st_mode & 0o777 == 0o600
    assert os.listdir(folder) == []
    os.kill(pid, signal.SIGKILL)
    gpu_rig.kernel.wait_until_gone()
    assert os.listdir(folder) == []


def test_bytes_come_back_from_disk_and_memory(gpu_rig: Rig) -> None:
    """A cell that runs on a kernel whose bytes were half on disk finds each of them."""
    folder = gpu_rig.folder / "spill"
    folder.mkdir()
    limits = {"host_limit_bytes": HELD_BYTES // 2, "spill_dir": str(folder), "spill_limit_bytes": HELD_BYTES}
    assert gpu_rig.server.ask("suspend", **limits)["outcome"] == "done"
    cell = gpu_rig.start_waiting(CHECK)
    gpu_rig.restore()
    assert gpu_rig.kernel.finish(cell).text == "True"
    assert gpu_rig.server.ask("look")["spilled_bytes"] == 0


def test_a_cell_runs_at_once_while_host_memory_is_taken(own_rig: Rig) -> None:
    """A cell that arrives while pages are being taken ahead is not held up; the reclaim gives way, with its reason."""
    rig = own_rig
    (rig.folder / "hold-prepare").touch()
    asked = rig.server.ask_later("suspend")
    while not (rig.folder / "hold-preparing").exists():
        time.sleep(0.005)
    assert rig.kernel.run("t.read()").text == "'precious'"
    reply = rig.server.reply(asked)
    assert (reply["outcome"], reply["reason"]) == ("refused", "running")
    rig.reclaim()
    rig.restore()
