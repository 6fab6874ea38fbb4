"""`Nvml` through the real pynvml, on the simulated libnvidia-ml: what it reads, and what it says of what it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pynvml
import pytest

from jupyter_gpu_reclaim.gpu.nvml import Nvml
from jupyter_gpu_reclaim.sim.board import Board, GiB, MiB
from jupyter_gpu_reclaim.sim.environment import BOARD_VARIABLE, environment, preload_nvml

REST = timedelta(seconds=30)
UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, INSUFFICIENT_SIZE, DRIVER_NOT_LOADED = 1, 3, 4, 7, 9
TIMEOUT, FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, OPERATING_SYSTEM = 10, 13, 15, 16, 17
VERSION_MISMATCH, ARGUMENT_VERSION_MISMATCH, UNKNOWN = 18, 25, 999
FIRST, SECOND = "GPU-5150c0de-0000-4000-8000-000000000001", "GPU-5150c0de-0000-4000-8000-000000000002"


class Seconds:
    """A monotonic clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The present."""
        return self.now

    def pass_by(self, span: timedelta) -> None:
        """Let a span go by."""
        self.now += span.total_seconds()


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """Two GPUs, of 8 and 80 GiB, of each of which the driver keeps 256 MiB; NVML in this process shows them."""
    preload_nvml()
    gpus = [("Small", 8 * GiB), ("Large", 80 * GiB)]
    with Board.create(tmp_path / "board", gpus, reserved_bytes=256 * MiB, series=0) as board:
        monkeypatch.setenv(BOARD_VARIABLE, str(board.path))
        yield board


@pytest.fixture
def seconds() -> Seconds:
    """The time by which `nvml` rests."""
    return Seconds()


@pytest.fixture
def nvml(board: Board, seconds: Seconds) -> Iterator[Nvml]:
    """A connection that has not been used yet."""
    connection = Nvml(rest=REST, monotonic=seconds)
    yield connection
    connection.close()


def uuids(nvml: Nvml) -> list[str] | None:
    """The GPUs of the next look."""
    gpus = nvml.read().gpus
    return None if gpus is None else [gpu.uuid for gpu in gpus]


def test_every_gpu_with_its_figures(board: Board, nvml: Nvml) -> None:
    """A look gives each GPU's identity, what can be had of its memory, its load and its power, and no problem."""
    board.set_other_used(3 * GiB, device=1)
    board.set_utilization(40, device=1)
    board.set_power(50, 250, device=1)
    reading = nvml.read()
    assert reading.problem is None
    small, large = reading.gpus
    assert (small.uuid, small.name, small.total_bytes, small.used_bytes) == (
        FIRST,
        "Simulated Small",
        7936 * MiB,
        0,
    )
    assert (large.uuid, large.name) == (SECOND, "Simulated Large")
    assert (large.total_bytes, large.used_bytes) == (80 * GiB - 256 * MiB, 3 * GiB)
    assert (large.utilization, large.power_watts) == (0.4, 130.0)
    assert small.simulated
    assert large.simulated


@pytest.mark.parametrize("code", [FUNCTION_NOT_FOUND, NOT_SUPPORTED, ARGUMENT_VERSION_MISMATCH])
def test_free_memory_is_the_same_by_the_older_call(board: Board, nvml: Nvml, code: int) -> None:
    """A driver without memory version 2 gives the same free bytes, the reserve being nobody's in both."""
    board.set_other_used(1 * GiB)
    before = [gpu.free_bytes for gpu in nvml.read().gpus]
    board.set_fault("nvmlDeviceGetMemoryInfo_v2", code)
    assert [gpu.free_bytes for gpu in nvml.read().gpus] == before == [6912 * MiB, 80 * GiB - 256 * MiB]


def test_processes_of_both_kinds(board: Board, nvml: Nvml) -> None:
    """Processes that compute and that draw are listed with their bytes, once each; bytes untold stay None."""
    board.add_process(4001, 1 * GiB)
    board.add_process(4002, 2 * GiB, memory_known=False)
    board.add_process(4003, 3 * MiB, graphics=True)
    board.add_process(4001, 1 * GiB, graphics=True)
    board.add_process(4004, 5 * GiB, device=1)
    reading = nvml.read()
    assert reading.processes == {
        FIRST: {4001: 1 * GiB, 4002: None, 4003: 3 * MiB},
        SECOND: {4004: 5 * GiB},
    }
    assert reading.problem is None


def test_a_gpu_that_only_computes(board: Board, nvml: Nvml) -> None:
    """Where the driver knows no drawing processes the computing ones are still listed, and that is no problem."""
    board.add_process(4001, 1 * GiB)
    board.set_fault("nvmlDeviceGetGraphicsRunningProcesses_v3", NOT_SUPPORTED)
    reading = nvml.read()
    assert reading.processes == {FIRST: {4001: 1 * GiB}, SECOND: {}}
    assert reading.problem is None


def test_processes_that_start_while_they_are_listed(board: Board, nvml: Nvml) -> None:
    """A list that grew between being measured and being read is asked for again."""
    board.add_process(4001, 1 * GiB)
    board.set_fault("nvmlDeviceGetComputeRunningProcesses_v3", INSUFFICIENT_SIZE, skip=1, count=1, device=0)
    assert nvml.read().processes[FIRST] == {4001: 1 * GiB}


def test_work_is_seen_once(board: Board, nvml: Nvml) -> None:
    """Each look tells the work since the last one, per GPU: no samples means that nothing was done, not unknown."""
    board.add_process(4001, 1 * GiB)
    board.add_process(4002, 1 * GiB, device=1)
    assert nvml.read().busy == {FIRST: {}, SECOND: {}}
    board.note_busy(4001, percent=37)
    assert nvml.read().busy == {FIRST: {4001: 37}, SECOND: {}}
    assert nvml.read().busy == {FIRST: {}, SECOND: {}}
    board.note_busy(4002, device=1, percent=5)
    assert nvml.read().busy == {FIRST: {}, SECOND: {4002: 5}}
    board.note_busy(4001, percent=0)
    assert nvml.read().busy == {FIRST: {}, SECOND: {}}


def test_work_is_seen_after_the_clock_was_set_back(board: Board, nvml: Nvml) -> None:
    """Samples from before a clock was set back do not hide those that come after it."""
    board.add_process(4001, 1 * GiB)
    board.note_busy(4001, percent=50, at=time.time() + 3600)
    assert nvml.read().busy[FIRST] == {4001: 50}
    board.note_busy(4001, percent=20)
    assert nvml.read().busy[FIRST] == {4001: 20}


def test_work_is_remembered_across_a_new_connection(board: Board, nvml: Nvml) -> None:
    """Work already told is not told again after NVML had to be opened anew."""
    board.add_process(4001, 1 * GiB)
    board.note_busy(4001, percent=50)
    assert nvml.read().busy[FIRST] == {4001: 50}
    nvml.close()
    assert nvml.read().busy[FIRST] == {}


@pytest.mark.parametrize("code", [NOT_SUPPORTED, FUNCTION_NOT_FOUND])
def test_load_that_this_gpu_never_tells(board: Board, nvml: Nvml, code: int) -> None:
    """A GPU that cannot tell who works on it says None for it, without a complaint, and the other GPU is read."""
    board.add_process(4001, 1 * GiB)
    board.set_fault("nvmlDeviceGetProcessUtilization", code, device=0)
    reading = nvml.read()
    assert reading.busy == {FIRST: None, SECOND: {}}
    assert reading.problem is None


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, TIMEOUT])
def test_figures_that_are_only_shown(board: Board, nvml: Nvml, code: int) -> None:
    """Load and power of the whole GPU are None where they cannot be had; nothing else depends on them."""
    board.set_fault("nvmlDeviceGetUtilizationRates", code)
    board.set_fault("nvmlDeviceGetPowerUsage", code)
    reading = nvml.read()
    assert [(gpu.utilization, gpu.power_watts) for gpu in reading.gpus] == [(None, None)] * 2
    assert reading.problem is None


@pytest.mark.parametrize(
    ("call", "unknown"),
    [
        ("nvmlDeviceGetComputeRunningProcesses_v3", "processes"),
        ("nvmlDeviceGetProcessUtilization", "processes' loads"),
    ],
)
def test_a_part_that_is_refused(board: Board, nvml: Nvml, call: str, unknown: str) -> None:
    """A list that may not be read is unknown, not empty; the problem says which and the cure, the rest is read."""
    board.set_fault(call, NO_PERMISSION, device=0)
    reading = nvml.read()
    assert [gpu.uuid for gpu in reading.gpus] == [FIRST, SECOND]
    assert f"The {unknown} of GPU 0 (Simulated Small, {FIRST}) are unknown" in reading.problem
    assert "/dev/nvidia" in reading.problem
    assert (FIRST in reading.processes) == (unknown != "processes")
    assert reading.busy[FIRST] == ({} if unknown == "processes" else None)
    assert reading.processes[SECOND] == reading.busy[SECOND] == {}


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (GPU_IS_LOST, "fallen off the bus"),
        (RESET_REQUIRED, "nvidia-smi -r"),
        (NO_PERMISSION, "/dev/nvidia*"),
        (OPERATING_SYSTEM, "cgroup or container"),
        (NOT_SUPPORTED, "share the host's memory"),
        (TIMEOUT, "dmesg"),
        (UNKNOWN, "code 999"),
    ],
)
def test_one_gpu_that_fails_does_not_hide_the_other(board: Board, nvml: Nvml, code: int, cure: str) -> None:
    """A GPU that cannot be read is missing, its problem names it and the cure, and the other GPU is read in full."""
    board.add_process(4001, 1 * GiB, device=1)
    board.set_fault("nvmlDeviceGetMemoryInfo*", code, device=0)
    reading = nvml.read()
    assert [gpu.uuid for gpu in reading.gpus] == [SECOND]
    assert reading.processes == {SECOND: {4001: 1 * GiB}}
    assert reading.busy == {SECOND: {}}
    assert reading.problem.startswith(f"GPU 0 (Simulated Small, {FIRST}) ")
    assert cure in reading.problem
    assert reading.problem.endswith("Until then nothing is reclaimed from it.")


def test_a_lost_gpu_comes_back(board: Board, nvml: Nvml, seconds: Seconds) -> None:
    """For a lost GPU NVML is opened anew at once, then only after a rest; a handle that works again is simply used."""
    assert uuids(nvml) == [FIRST, SECOND]
    board.set_fault("nvmlDeviceGetMemoryInfo*", GPU_IS_LOST, count=1, device=0)
    assert uuids(nvml) == [FIRST, SECOND]
    board.set_fault("nvmlDeviceGetMemoryInfo*", GPU_IS_LOST, device=0)
    assert uuids(nvml) == [SECOND]
    board.set_fault("nvmlInitWithFlags", UNKNOWN)
    assert uuids(nvml) == [SECOND]
    seconds.pass_by(REST)
    assert uuids(nvml) is None  # the rest is over, nvmlInit was tried
    board.clear_faults()
    seconds.pass_by(REST)
    assert uuids(nvml) == [FIRST, SECOND]


def test_a_gpu_that_cannot_be_opened(board: Board, nvml: Nvml, seconds: Seconds) -> None:
    """A GPU whose handle is refused is named by its index, does not hide the other, and is tried again after a rest."""
    board.set_fault("nvmlDeviceGetHandleByIndex_v2", NO_PERMISSION, skip=0, count=2)
    reading = nvml.read()
    assert reading.gpus is None
    assert "GPU 0 (name unknown)" in reading.problem
    assert "GPU 1 (name unknown)" in reading.problem
    seconds.pass_by(REST)
    board.clear_faults()
    board.set_fault("nvmlDeviceGetHandleByIndex_v2", GPU_IS_LOST, count=1)
    reading = nvml.read()
    assert [gpu.uuid for gpu in reading.gpus] == [SECOND]
    assert reading.problem.startswith("GPU 0 (name unknown) has fallen off the bus")
    seconds.pass_by(REST)
    assert uuids(nvml) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (DRIVER_NOT_LOADED, "modprobe nvidia"),
        (VERSION_MISMATCH, "different versions"),
        (NO_PERMISSION, "/dev/nvidia*"),
        (OPERATING_SYSTEM, "cgroup or container"),
        (FUNCTION_NOT_FOUND, "too old"),
        (TIMEOUT, "dmesg"),
        (UNKNOWN, "code 999"),
    ],
)
def test_a_driver_that_does_not_start(
    board: Board, nvml: Nvml, seconds: Seconds, code: int, cure: str
) -> None:
    """Without a driver there are no GPUs to speak of, the problem names the cure, the next try comes after a rest."""
    board.set_fault("nvmlInitWithFlags", code)
    reading = nvml.read()
    assert reading.gpus is None
    assert reading.processes == reading.busy == {}
    assert cure in reading.problem
    board.clear_faults()
    assert nvml.read() == reading
    seconds.pass_by(REST)
    assert uuids(nvml) == [FIRST, SECOND]
    assert nvml.read().problem is None


def test_a_driver_that_is_reloaded(board: Board, nvml: Nvml, seconds: Seconds) -> None:
    """While the driver is away the problem says so; a rest after it is back everything is read again."""
    assert uuids(nvml) == [FIRST, SECOND]
    board.set_fault("nvml*", DRIVER_NOT_LOADED)
    away = nvml.read()
    assert away.gpus is None
    assert "modprobe nvidia" in away.problem
    board.clear_faults()
    seconds.pass_by(REST)
    assert uuids(nvml) == [FIRST, SECOND]


def test_nvml_shut_down_by_somebody_else(board: Board, nvml: Nvml) -> None:
    """Other code in the process that shuts NVML down (it counts for all) costs not even one look."""
    assert uuids(nvml) == [FIRST, SECOND]
    pynvml.nvmlShutdown()
    reading = nvml.read()
    assert [gpu.uuid for gpu in reading.gpus] == [FIRST, SECOND]
    assert reading.problem is None


def test_no_gpu_at_all(board: Board, nvml: Nvml) -> None:
    """A working driver without a GPU is not the same as no driver: there are no GPUs, and the problem says so."""
    board._shared.device_count = 0
    reading = nvml.read()
    assert reading.gpus == ()
    assert "shows no GPU" in reading.problem


def test_closed_and_used_again(board: Board, nvml: Nvml) -> None:
    """Closing twice is harmless, and a look afterwards connects again."""
    assert uuids(nvml) == [FIRST, SECOND]
    nvml.close()
    nvml.close()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    assert uuids(nvml) == [FIRST, SECOND]


def in_a_process(code: str, **variables: str) -> str:
    """What a process with these variables, and none about the simulated GPU besides, prints. Fails if it fails."""
    clean = {
        name: value for name, value in os.environ.items() if name not in (BOARD_VARIABLE, "LD_LIBRARY_PATH")
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


READ_ALONE = """
from jupyter_gpu_reclaim.gpu.nvml import Nvml
nvml = Nvml()
reading = nvml.read()
print(reading.gpus if reading.gpus is None else [gpu.uuid for gpu in reading.gpus], reading.problem)
"""


def test_the_library_is_missing(tmp_path: Path) -> None:
    """A machine without NVIDIA's library has no GPUs, and the problem says what to install."""
    # A file by that name which is no library stands before a real one, should this machine have one.
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    said = in_a_process(READ_ALONE, LD_LIBRARY_PATH=str(tmp_path))
    if "libnvidia-ml.so.1" not in said:
        pytest.skip(f"this machine's loader passes over a broken library and found a real one: {said}")
    assert said.startswith("None NVML (libnvidia-ml.so.1) is not there: install the NVIDIA driver")


def test_found_by_the_environment_alone(board: Board) -> None:
    """A new process finds the simulated GPUs by its environment, the way kernels and servers do."""
    said = in_a_process(READ_ALONE, **environment(board.path))
    assert said == f"['{FIRST}', '{SECOND}'] None\n"


LEFT_BEHIND = """
import os, threading, time
from jupyter_gpu_reclaim.gpu.nvml import Nvml
from jupyter_gpu_reclaim.sim.board import Board

board = Board.attach(os.environ["JUPYTER_GPU_RECLAIM_SIM_BOARD"])
first = Nvml()
assert len(first.read().gpus) == 2
board.set_fault("nvmlDeviceGetMemoryInfo_v2", 0, count=1, delay=3600)
threading.Thread(target=first.read, daemon=True).start()
until = time.monotonic() + 60
while board._shared.fault[0].count != 0:  # the driver has swallowed that call
    assert time.monotonic() < until
    time.sleep(0.001)
second = Nvml()
print([gpu.uuid for gpu in second.read().gpus])
second.close()
print([gpu.uuid for gpu in Nvml().read().gpus])
"""


def test_a_look_that_never_comes_back(board: Board) -> None:
    """A look that the driver keeps for ever holds up neither another connection, nor its closing, nor the exit."""
    said = in_a_process(LEFT_BEHIND, **environment(board.path))
    assert said == f"['{FIRST}', '{SECOND}']\n" * 2
