"""Training is continued bit for bit after its GPU memory was away, at whatever point it was taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from offload_process import DeviceProcess


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceProcess]:
    """A process with two simulated GPUs, poison on."""
    process = DeviceProcess(tmp_path_factory.mktemp("offload"))
    yield process
    process.close()


@pytest.mark.parametrize("scenario", ["every_cut_point", "by_resize"])
def test_training_goes_on_bit_for_bit(device: DeviceProcess, scenario: str) -> None:
    """A CNN under Adam, offloaded after every forward, backward and step, equals a twin that was left alone.

    Each time nothing stays allocated or reserved: all of plain training can be moved.
    """
    facts = device.run("offload_training", scenario)
    assert facts["losses_equal"]
    assert facts["tensors"] > 50
    assert facts["tensors_equal"]
    assert facts["aliased"]
    assert facts["learned"]
    for _, moved_bytes, unmovable, reserved_bytes in facts["cycles"]:
        assert moved_bytes > 100_000
        assert unmovable == {}
        assert reserved_bytes == 0
    assert [cycle[0] for cycle in facts["cycles"]] == ["after forward", "after backward", "between steps"] * 4


def test_thirty_cycles_grow_nothing(device: DeviceProcess) -> None:
    """Thirty cycles use one host buffer, leave no objects behind, and come back to what `needed_bytes` had said."""
    facts = device.run("offload_training", "thirty_cycles")
    assert facts["tensors_equal"]
    assert facts["losses_equal"]
    assert len(facts["host"]) == 30
    assert len({tuple(entry) for entry in facts["host"]}) == 1
    assert all(came_back <= said for came_back, said in zip(facts["reserved"], facts["needed"], strict=True))
    assert max(facts["needed"]) <= max(facts["reserved"]) * 1.5
    assert facts["objects"][1] - facts["objects"][0] < 100
