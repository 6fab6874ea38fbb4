"""Host memory and disk while bytes are away: within the limits, nothing left behind, and a refusal loses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from offload_process import DeviceProcess
from simgpu import ChildDied, SimProcess, without_channel  # noqa: F401

MIB = 1 << 20


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a disk, which the scenarios find in their environment."""
    folder = tmp_path_factory.mktemp("disk")
    os.environ["SPILL_TEST_DISK"] = str(folder)
    yield folder
    del os.environ["SPILL_TEST_DISK"]


@pytest.fixture(scope="module")
def device(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceProcess]:
    """A process with two simulated GPUs, poison on."""
    process = DeviceProcess(tmp_path_factory.mktemp("offload"))
    yield process
    process.close()


def test_what_finds_no_room_in_memory_goes_to_disk(device: DeviceProcess) -> None:
    """One file without a name takes the rest; the bytes come back, the file is closed, the next offload needs none."""
    facts = device.run("offload_host", "spilled")
    assert facts["names"] == []
    assert facts["files"] == 1
    assert 0 < facts["in_memory"] <= 20 * MIB
    assert 0 <= facts["sum"] <= 512 * 1002  # all of it lies somewhere, the layout's gaps included
    assert facts["closed"]
    assert facts["equal"]
    assert facts["again"] == 0


@pytest.mark.parametrize(
    ("scenario", "sentence"),
    [
        ("disk_full_in_the_middle", "is full: File too large"),
        ("spill_limit", "only 10485760 may be spilled to disk"),
        ("no_disk", "/dev/shm is no disk (tmpfs)"),
        ("no_folder", "nothing can be spilled to /nowhere: No such file or directory"),
    ],
)
def test_too_little_room_everywhere_touches_nothing(
    device: DeviceProcess, scenario: str, sentence: str
) -> None:
    """Every tensor stays on the GPU with its bytes, the refusal says what was missing, and the next offload works."""
    facts = device.run("offload_host", scenario)
    assert facts["error"] == "OutOfHostMemory"
    assert sentence in facts["message"]
    assert facts["untouched"]
    assert facts["works_after"]


def test_damage_on_the_disk_is_noticed(device: DeviceProcess) -> None:
    """A byte that changed on the disk gets to no tensor, and the error says that the copy is not intact."""
    facts = device.run("offload_host", "damaged_on_disk")
    assert facts["error"] == "OnloadFailed"
    assert "read back from disk" in facts["message"]
    assert facts["memory_intact"] is False
    assert facts["still_away"]
    assert facts["equal"]


def test_a_buffer_too_large_is_trimmed(device: DeviceProcess) -> None:
    """After a small episode the host has back what only the large one before needed; a large one finds room again."""
    facts = device.run("offload_host", "trimmed")
    assert facts["sizes"] == [120 * MIB, 20 * MIB, 120 * MIB]
    assert facts["resident"][0] >= 120 * MIB
    assert facts["resident"][1] <= 22 * MIB
    assert facts["equal"]


def test_host_memory_is_taken_ahead(device: DeviceProcess) -> None:
    """Prepared, every page is there before the offload and used by it; stopped, none is; beyond the limit, nothing."""
    facts = device.run("offload_host", "prepared")
    assert facts["beyond"] == 0
    assert facts["stopped"] == 0
    assert facts["ahead"] >= 64 * MIB
    assert facts["same_buffer"]
    assert facts["equal"]
