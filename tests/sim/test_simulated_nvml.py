"""The simulated NVML through the real nvidia-ml-py: layouts, versions, errors, processes, samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pynvml
import pytest
from simgpu import SimProcess

from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import preload_nvml


@pytest.fixture
def nvml(new_board: Callable[..., Board]) -> Iterator[Board]:
    """A board of two GPUs that pynvml in this process sees, initialised."""
    board = new_board(("GPU A", 1024 * MiB), ("GPU B", 2048 * MiB), reserved_bytes=64 * MiB)
    preload_nvml(board.path)
    pynvml.nvmlInit()
    yield board
    pynvml.nvmlShutdown()
    preload_nvml(None)


def _gpu(index: int = 0) -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def test_devices_say_that_they_are_simulated(nvml: Board) -> None:
    """Count, names, UUIDs and indices are the board's, and every name and the driver's version say "simulated"."""
    assert pynvml.nvmlDeviceGetCount() == 2
    assert [pynvml.nvmlDeviceGetName(_gpu(i)) for i in (0, 1)] == ["Simulated GPU A", "Simulated GPU B"]
    uuid = pynvml.nvmlDeviceGetUUID(_gpu(1))
    assert uuid == nvml.gpus()[1].uuid
    assert uuid.startswith("GPU-5150c0de-")
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == 1
    assert "simulated" in pynvml.nvmlSystemGetDriverVersion()
    assert pynvml.nvmlSystemGetCudaDriverVersion() == 13000


def test_memory_in_both_versions(nvml: Board) -> None:
    """Version 1 counts the driver's reserve as used, version 2 apart; the other GPU is not touched."""
    nvml.add_process(4242, 100 * MiB)
    nvml.set_other_used(28 * MiB)
    first = pynvml.nvmlDeviceGetMemoryInfo(_gpu())
    second = pynvml.nvmlDeviceGetMemoryInfo(_gpu(), version=pynvml.nvmlMemory_v2)
    assert (first.total, first.used, first.free) == (1024 * MiB, 192 * MiB, 832 * MiB)
    assert (second.total, second.used, second.reserved, second.free) == tuple(
        n * MiB for n in (1024, 128, 64, 832)
    )
    assert pynvml.nvmlDeviceGetMemoryInfo(_gpu(1)).used == 64 * MiB


def test_processes_and_their_memory(nvml: Board) -> None:
    """Compute processes are listed per GPU with their bytes, None where the driver cannot say; graphics ones apart."""
    nvml.add_process(4242, 100 * MiB)
    nvml.add_process(4243, 50 * MiB, memory_known=False)
    nvml.add_process(4244, 10 * MiB, device=1)
    nvml.add_process(4245, 10 * MiB, graphics=True)

    def listed(query: Callable[[Any], Any], index: int) -> dict[int, int | None]:
        return {row.pid: row.usedGpuMemory for row in query(_gpu(index))}

    assert listed(pynvml.nvmlDeviceGetComputeRunningProcesses, 0) == {4242: 100 * MiB, 4243: None}
    assert listed(pynvml.nvmlDeviceGetComputeRunningProcesses, 1) == {4244: 10 * MiB}
    assert listed(pynvml.nvmlDeviceGetGraphicsRunningProcesses, 0) == {4245: 10 * MiB}
    nvml.remove_process(4242)
    assert listed(pynvml.nvmlDeviceGetComputeRunningProcesses, 0) == {4243: None}


def _work_on_order(channel: Any) -> None:
    import torch

    x = torch.ones(300, 300, device="simgpu")
    channel.send("ready")
    while channel.recv() != "end":
        for _ in range(20):
            x = (x @ x).clamp_(-1, 1)
        channel.send(torch.simgpu.memory_reserved())


def test_real_work_leaves_samples(nvml: Board) -> None:
    """A process shows its bytes, a new utilisation sample after each burst of work, and none while it does nothing."""
    with SimProcess(nvml, _work_on_order) as worker:
        worker.receive()
        seen = 0
        for _ in range(3):
            worker.send("work")
            reserved = worker.receive()
            [sample] = pynvml.nvmlDeviceGetProcessUtilization(_gpu(), seen)
            assert sample.pid == worker.pid
            assert sample.timeStamp > seen
            assert 1 <= sample.smUtil <= 100
            seen = sample.timeStamp
            with pytest.raises(pynvml.NVMLError_NotFound):
                pynvml.nvmlDeviceGetProcessUtilization(_gpu(), seen)
        [row] = pynvml.nvmlDeviceGetComputeRunningProcesses(_gpu())
        assert (row.pid, row.usedGpuMemory) == (worker.pid, 16 * MiB + reserved)
        with pytest.raises(pynvml.NVMLError_NotFound):
            pynvml.nvmlDeviceGetProcessUtilization(_gpu(1), 0)
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(_gpu()) == []


def test_utilisation_and_power(nvml: Board) -> None:
    """Without work a GPU is at 0 % and idle power; scripted utilisation shows, and power follows it."""
    nvml.set_power(20, 120)
    assert pynvml.nvmlDeviceGetUtilizationRates(_gpu()).gpu == 0
    assert pynvml.nvmlDeviceGetPowerUsage(_gpu()) == 20_000
    nvml.set_utilization(50, 10)
    rates = pynvml.nvmlDeviceGetUtilizationRates(_gpu())
    assert (rates.gpu, rates.memory) == (50, 10)
    assert pynvml.nvmlDeviceGetPowerUsage(_gpu()) == 70_000
    nvml.set_utilization(None)
    nvml.add_process(4242, MiB)
    nvml.note_busy(4242, percent=40)
    assert pynvml.nvmlDeviceGetUtilizationRates(_gpu()).gpu == 40
    assert [s.smUtil for s in pynvml.nvmlDeviceGetProcessUtilization(_gpu(), 0)] == [40]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVMLError_NotSupported),
        (pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVMLError_NoPermission),
        (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVMLError_GpuIsLost),
        (pynvml.NVML_ERROR_TIMEOUT, pynvml.NVMLError_Timeout),
    ],
)
def test_scripted_errors(nvml: Board, code: int, error: type[Exception]) -> None:
    """A scripted code reaches the client as its own exception, on the one GPU and as often as scripted."""
    gpu, other = _gpu(0), _gpu(1)
    nvml.set_fault("nvmlDeviceGetM*", code, device=0, skip=1, count=2)
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu).total == 1024 * MiB
    for _ in range(2):
        assert pynvml.nvmlDeviceGetMemoryInfo(other).total == 2048 * MiB
        assert pynvml.nvmlDeviceGetIndex(gpu) == 0
        with pytest.raises(error):
            pynvml.nvmlDeviceGetMemoryInfo(gpu)
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu).total == 1024 * MiB


def test_faults_last_until_cleared(nvml: Board) -> None:
    """A fault without a count stays, and reaches every GPU unless one is named, until all faults are cleared."""
    nvml.set_fault("nvmlDeviceGet*", pynvml.NVML_ERROR_GPU_IS_LOST)
    for index in (0, 1, 0):
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            _gpu(index)
    nvml.clear_faults()
    assert pynvml.nvmlDeviceGetIndex(_gpu(1)) == 1


def test_functions_of_newer_drivers_are_absent(nvml: Board) -> None:
    """What the library does not offer is FunctionNotFound, as with an old driver."""
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetTemperature(_gpu(), 0)


def test_no_board_is_no_driver(simgpu_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Without a board, or with a file that is none, the client is told that no driver is loaded."""
    monkeypatch.delenv("JUPYTER_GPU_RECLAIM_SIM_BOARD", raising=False)
    preload_nvml(None)
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()
    (tmp_path / "no.board").write_bytes(b"x" * 100_000)
    monkeypatch.setenv("JUPYTER_GPU_RECLAIM_SIM_BOARD", str(tmp_path / "no.board"))
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
