"""An offload's figures are right: what was freed where, what coming back takes, which blocks stay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from offload_process import DeviceProcess

from jupyter_gpu_reclaim.agent.torch_offload import outcome


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceProcess]:
    """A process with two simulated GPUs, poison on."""
    process = DeviceProcess(tmp_path_factory.mktemp("offload"))
    yield process
    process.close()


def test_two_gpus(device: DeviceProcess) -> None:
    """Each device's bytes are freed, named by its UUID, and come back to the same device."""
    facts = device.run("offload_figures", "two_gpus")
    assert facts["equal"]
    assert facts["reserved"] == 0
    assert facts["devices"] == ["simgpu:0", "simgpu:1"]
    assert facts["freed"] == dict.fromkeys(facts["uuids"], 2 << 20)
    assert facts["needed"] == dict.fromkeys(facts["uuids"], 2 << 20)
    assert facts["allocated"] == {"0": 12288, "1": 12288}


def test_private_pools_stay(device: DeviceProcess) -> None:
    """A block of a private pool is left with its reason, whoever owns it; one without any owner is unexplained."""
    facts = device.run("offload_figures", "private_pool")
    assert facts["unmovable"] == {outcome.PRIVATE_POOL: 12288, outcome.UNEXPLAINED: 512}
    assert facts["unexplained_bytes"] == 512
    assert facts["staying"]
    assert facts["pooled"] == outcome.PRIVATE_POOL
    assert facts["plain"] is None


def test_needed_bytes_is_what_coming_back_takes(device: DeviceProcess) -> None:
    """For two hundred storages of all sizes the allocator's segments are foreseen to the byte."""
    facts = device.run("offload_figures", "reservations")
    assert facts["moved"] == 201
    assert facts["needed"] == facts["taken"]
