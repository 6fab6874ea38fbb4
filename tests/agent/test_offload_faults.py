"""Whatever fails, at whatever place: not a byte is lost, the caller is told how things stand, and it can go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from offload_process import DeviceProcess

from jupyter_gpu_reclaim.agent.torch_offload.outcome import UNEXPLAINED


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceProcess]:
    """A process with two simulated GPUs, poison on."""
    process = DeviceProcess(tmp_path_factory.mktemp("offload"))
    yield process
    process.close()


def test_nothing_is_initialised_by_looking(device: DeviceProcess) -> None:
    """Creating the mechanism and asking it initialises no device; it tells the ones in use, and how far it is."""
    facts = device.run("offload_faults", "telling")
    assert facts["at_start"] == {"gpus": {}, "counters": [], "initialized": False}
    assert facts["moved_counters"] == [True, False]
    assert facts["gpu"]["name"] == "Simulated one"
    assert facts["gpu"]["allocated_bytes"] == facts["gpu"]["reserved_bytes"] == facts["nbytes"]
    assert facts["told"][-1] == [facts["nbytes"]] * 2
    assert [done for done, _ in facts["told"]] == sorted(done for done, _ in facts["told"])


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("cancelled_in_the_copy", "Cancelled"),
        ("cancelled_at_once", "Cancelled"),
        ("copy_fails", "OffloadFailed"),
        ("device_is_broken", "OffloadFailed"),
        ("progress_fails", "OffloadFailed"),
        ("host_limit", "OutOfHostMemory"),
    ],
)
def test_a_failed_offload_touches_nothing(device: DeviceProcess, scenario: str, error: str) -> None:
    """Same addresses, same bytes, same allocated memory; the next offload works, and the live graph is right."""
    facts = device.run("offload_faults", scenario)
    assert facts["error"] == error
    assert facts["untouched"]
    assert facts["works_after"]


def test_a_failed_offload_says_why(device: DeviceProcess) -> None:
    """The message has the driver's own words and how things stand."""
    message = device.run("offload_faults", "copy_fails")["message"]
    assert "simgpu error 999 in copy" in message
    assert message.endswith("Every tensor is on the GPU as before.")


def test_what_was_allocated_meanwhile_is_unexplained(device: DeviceProcess) -> None:
    """After an offload each live block of the allocator was to stay, or its bytes are named as unexplained."""
    facts = device.run("offload_faults", "allocated_meanwhile")
    assert facts["moved_bytes"] == 20_000
    assert facts["unmovable"] == {UNEXPLAINED: 12288}
    assert facts["unexplained_bytes"] == 12288
    assert facts["late"] == [True]
    assert facts["kept"]
    assert facts["next"] == {}


def test_a_driver_that_fails_after_the_commit(device: DeviceProcess) -> None:
    """The offload stands, says that nothing was freed and why, and the onload is right."""
    facts = device.run("offload_faults", "driver_fails_after_the_commit")
    assert "simgpu error 999 in empty_cache" in facts["problem"]
    assert facts["freed"] == 0
    assert facts["offloaded"]
    assert facts["as_before"]


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("no_room_at_all", "OutOfDeviceMemory"),
        ("room_runs_out", "OutOfDeviceMemory"),
        ("room_runs_out_by_resize", "OutOfDeviceMemory"),
        ("copy_back_fails", "OnloadFailed"),
        ("copy_back_fails_by_resize", "OnloadFailed"),
    ],
)
def test_a_failed_onload_is_tried_again(device: DeviceProcess, scenario: str, error: str) -> None:
    """Twice it fails and gives back all GPU memory it took; the third time, with room, everything is as it was."""
    facts = device.run("offload_faults", scenario)
    assert facts["errors"] == [error, error]
    assert facts["intact"] == [True, True]
    assert facts["reserved"] == [0, 0]
    assert facts["offloaded"]
    assert facts["offload_again"] == "NothingToMove"
    assert "can be tried again" in facts["message"]
    assert facts["as_before"]


def test_resizing_that_runs_out_half_way(device: DeviceProcess) -> None:
    """Storages that had memory again give it back, and the next try is complete."""
    facts = device.run("offload_faults", "resize_itself_runs_out")
    assert facts["error"] == "OutOfDeviceMemory"
    assert facts["reserved"] == 0
    assert facts["as_before"]


def test_an_exchange_that_fails_is_undone(device: DeviceProcess) -> None:
    """When the last of five swaps raises, the first four are swapped back."""
    facts = device.run("offload_faults", "swap_fails")
    assert facts["error"] in ("RuntimeError", "TypeError")
    assert facts["addresses_kept"]
    assert facts["values"] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_nothing_to_move_is_said(device: DeviceProcess) -> None:
    """An empty device and one with only unmovable bytes are told apart, and an onload then does nothing."""
    facts = device.run("offload_faults", "nothing_to_move")
    assert facts["errors"] == ["NothingToMove"] * 2
    assert facts["unmovable"][0] == {}
    assert list(facts["unmovable"][1].values()) == [4096]
    assert facts["onload_moved"] == 0


def test_exceptions_keep_no_tensor_alive(device: DeviceProcess) -> None:
    """A caller that keeps the exceptions does not keep the user's GPU memory."""
    facts = device.run("offload_faults", "exceptions_hold_no_tensors")
    assert facts["kept"] == ["Cancelled", "OutOfHostMemory", "OffloadFailed", "OnloadFailed"]
    assert facts["allocated"] == 0


def test_no_cyclic_garbage_while_collection_is_off(device: DeviceProcess) -> None:
    """A cycle, and asking for figures a hundred times while offloaded, leave next to nothing to collect."""
    facts = device.run("offload_faults", "garbage")
    assert facts["unreachable"] < 20  # the simulated device's own snapshot makes a few
    assert facts["value"] == 2.0


def test_copies_under_way_are_waited_for(device: DeviceProcess) -> None:
    """A non_blocking copy of the user's that has not happened yet is in the bytes that come back."""
    assert device.run("offload_faults", "delayed_copies")["equal"]


def test_the_host_buffer(device: DeviceProcess) -> None:
    """It is kept between episodes, grows when needed, is not released while it holds bytes, and is on request."""
    facts = device.run("offload_faults", "host_buffer")
    assert facts["sizes"] == [0, 4 << 20, 4 << 20, 20 << 20, 0]
    assert facts["equal"]


def _output(program: str) -> str:
    preamble = "from jupyter_gpu_reclaim.agent.torch_offload import *\nimport sys\n"
    command = [sys.executable, "-c", preamble + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_without_torch_nothing_is_imported() -> None:
    """The package imports neither torch nor anything else heavy, and says what is missing."""
    program = """
try: TorchOffload()
except Unsupported as reason: print(reason, torch_is_loaded(), "torch" in sys.modules, "mmap" in sys.modules)
"""
    assert _output(program) == "PyTorch is not loaded. False False False\n"


def test_a_torch_without_accelerator_is_unsupported() -> None:
    """Where torch knows no accelerator the reason is one sentence, not an error."""
    program = """
import torch
try: TorchOffload()
except Unsupported as reason: print(reason, torch_is_loaded())
"""
    assert _output(program) == "This build of PyTorch knows no accelerator. True\n"


def test_a_torch_that_lacks_a_name_is_unsupported() -> None:
    """An older torch, without one of the names needed, makes a reason that says which, not an error."""
    program = """
import torch
del torch._C._storage_Use_Count
try: TorchOffload()
except Unsupported as reason: print(reason)
"""
    sentence = (
        "PyTorch lacks what moving its memory needs: module 'torch._C' has no attribute '_storage_Use_Count'."
    )
    assert _output(program) == sentence + "\n"
