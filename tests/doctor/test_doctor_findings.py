"""What `doctor` says of each broken set-up, word for word, and that it never leaves anybody without a way on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from doctor_setups import FOLDER, HEALTHY, SETUPS, shown

from jupyter_gpu_reclaim.doctor.examine import examined
from jupyter_gpu_reclaim.doctor.findings import Finding, Level

FULL_WORDS = {"cullers_after", "lab_absent"}  # set-ups that only look unusual


@pytest.mark.parametrize("name", SETUPS)
def test_each_setup_is_told_as_its_golden_file_has_it(name: str) -> None:
    """What is shown for a set-up is its golden file, word for word (`python tests/doctor_setups.py` writes it anew)."""
    assert shown(name) == (FOLDER / f"{name}.txt").read_text()


def test_no_golden_file_is_left_over() -> None:
    """Each golden file belongs to a set-up."""
    assert {path.stem for path in FOLDER.iterdir()} == set(SETUPS)


@pytest.mark.parametrize("name", sorted(set(SETUPS) - FULL_WORDS - {"healthy"}))
def test_what_is_broken_is_noticed_with_a_fix(name: str) -> None:
    """Each broken set-up makes at least one finding that is not "ok", and each such finding says what to do."""
    wrong = [finding for finding in examined(SETUPS[name]) if finding.level is not Level.OK]
    assert wrong
    assert all(finding.fix.endswith(".") for finding in wrong)


def test_a_healthy_machine_has_nothing_to_do() -> None:
    """Where all is well every finding is "ok" and none carries a fix."""
    assert {(finding.level, finding.fix) for finding in examined(HEALTHY)} == {(Level.OK, "")}


def test_a_finding_without_a_fix_cannot_be_made() -> None:
    """A check that forgets the fix fails in its own test, not in front of a user."""
    with pytest.raises(ValueError, match="fix"):
        Finding(check="x", level=Level.WARN, message="It is broken.")
