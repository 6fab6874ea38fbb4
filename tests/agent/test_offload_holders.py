"""The trap table, tried line by line: bytes come back to the bit, or they stay, and it is said why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from holders import Entry
from holders_table import TABLE
from offload_process import DeviceProcess

from jupyter_gpu_reclaim.agent.torch_offload.outcome import UNEXPLAINED


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceProcess]:
    """A process with two simulated GPUs, poison on."""
    process = DeviceProcess(tmp_path_factory.mktemp("offload"))
    yield process
    process.close()


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_it_ends_as_the_table_says(device: DeviceProcess, entry: Entry) -> None:
    """What moves comes back as it was, what stays was usable all along, and all goes on as on the CPU twin.

    "As it was" is every byte of every storage, shapes, strides, who shares memory with whom, and version counters;
    what the notebook computes afterwards (gradients, errors, counts of its own code's calls) equals the twin's.
    """
    facts = device.run("holders_table", "try_entry", entry.scenario.__name__)
    if entry.spoils:
        device.close()
    assert facts["changed_by_the_cycle"] == []
    assert facts["unlike_the_twin"] == []
    assert facts["unmovable"] == entry.stays
    assert facts["beside_went"] == (not entry.beside_stays)
    if facts["unexplained_bytes"] is not None:
        assert facts["unexplained_bytes"] == entry.stays.get(UNEXPLAINED, 0)
    if not entry.stays:
        assert facts["stayed"] == 0
    assert facts["readable"]
