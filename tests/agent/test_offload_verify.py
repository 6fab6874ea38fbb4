"""Trust, but verify: whichever copy a bit flips in, it is noticed before any tensor is given the wrong bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from offload_process import DeviceProcess


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceProcess]:
    """A process with two simulated GPUs, poison on."""
    process = DeviceProcess(tmp_path_factory.mktemp("verify"))
    yield process
    process.close()


def test_a_flip_on_the_way_out(device: DeviceProcess) -> None:
    """Every copy of an offload, flipped in turn: it fails naming the GPU, nothing has moved, and the next is right."""
    facts = device.run("offload_verify", "flipped_on_the_way_out")
    assert facts["alarms"] > 20
    assert facts["all_told"]
    assert facts["as_before"]


def test_a_flip_on_the_way_back(device: DeviceProcess) -> None:
    """Every copy of an onload, flipped in turn: it fails naming the GPU, the host's bytes stay, the next is right."""
    facts = device.run("offload_verify", "flipped_on_the_way_back")
    assert facts["alarms"] > 20
    assert facts["all_told"]
    assert "host memory" in facts["message"]
    assert facts["as_before"]


def test_a_change_on_the_host(device: DeviceProcess) -> None:
    """Bytes that changed in host memory are given to no tensor, and are not called intact."""
    facts = device.run("offload_verify", "changed_on_the_host")
    assert facts["error"] == "OnloadFailed"
    assert not facts["intact"]
    assert facts["gpu_is_told"]
    assert "No tensor was given them" in facts["message"]
    assert facts["offloaded"]
    assert facts["as_before"]


def test_what_verifying_is_for(device: DeviceProcess) -> None:
    """Without it the very same flip ends in a wrong tensor."""
    assert device.run("offload_verify", "without_verifying") == {"wrong": 1}


def test_a_device_without_room_for_checksums(device: DeviceProcess) -> None:
    """On a device that is full to the brim flips are noticed both ways, and nothing fails for want of room."""
    facts = device.run("offload_verify", "on_a_full_device")
    assert facts["errors"] == ["OffloadFailed", "OnloadFailed"]
    assert facts["equal"]


def test_the_right_one_of_two_devices(device: DeviceProcess) -> None:
    """A flip in a copy from the second GPU is told of the second GPU."""
    facts = device.run("offload_verify", "second_device")
    assert facts["told"]
    assert facts["equal"]
