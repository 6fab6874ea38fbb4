"""The trap table, tried line by line: bytes come back to the bit, or they stay, and it is said why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from background_cases import ALL
from holders import Entry
from holders_table import BACKGROUND, ENTRIES, NO_OBSTACLE, as_markdown
from offload_process import DeviceProcess

from jupyter_gpu_reclaim.agent.torch_offload.outcome import UNEXPLAINED


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceProcess]:
    """A process with two simulated GPUs, poison on."""
    process = DeviceProcess(tmp_path_factory.mktemp("offload"))
    yield process
    process.close()


def test_an_export_is_noticed_whoever_else_holds_the_bytes(device: DeviceProcess) -> None:
    """With an alias of all that an entry keeps exported through DLPack, none of it moves: no holder hides that."""
    facts = device.run("holders_table", "export_everything")
    assert sum(of_one["exported"] for of_one in facts.values()) > 150
    assert {name: of_one["moved"] for name, of_one in facts.items() if of_one["moved"]} == {}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: entry.name)
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


def test_what_runs_by_itself_is_judged_as_the_table_says() -> None:
    """Each line on background work names cases that test_background_work.py tries in real kernels, so judged."""
    user = {case.name: case.user for case in ALL}
    assert {user[name] for names in BACKGROUND.values() for name in names} == {True}
    assert {user[name] for names in NO_OBSTACLE.values() for name in names} == {False}


def test_the_documentation_has_the_same_table() -> None:
    """docs/engine.md shows every line of the table with its verdict, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()
    shown = re.search(r"<!-- trap table: begin -->\n(.*)\n<!-- trap table: end -->", page, re.DOTALL)
    assert shown
    assert shown.group(1) == as_markdown()
