"""The state machine, all of it."""

from __future__ import annotations

import pytest

from jupyter_gpu_reclaim.core.model import Event, Phase
from jupyter_gpu_reclaim.core.phase import TRANSITIONS, IllegalTransition, advance

STEPS = {
    (Phase.RESIDENT, Event.RECLAIM_STARTED): Phase.RECLAIMING,
    (Phase.RECLAIMING, Event.RECLAIM_DONE): Phase.RECLAIMED,
    (Phase.RECLAIMING, Event.RECLAIM_REFUSED): Phase.RESIDENT,
    (Phase.RECLAIMING, Event.RECLAIM_FAILED): Phase.RESIDENT,
    (Phase.RECLAIMED, Event.RESTORE_STARTED): Phase.RESTORING,
    (Phase.RESTORING, Event.RESTORE_DONE): Phase.RESIDENT,
    (Phase.RESTORING, Event.RESTORE_REFUSED): Phase.RECLAIMED,
    (Phase.RESTORING, Event.RESTORE_FAILED): Phase.RECLAIMED,
    (Phase.RECLAIMED, Event.RESTORE_DONE): Phase.RESIDENT,
    (Phase.RESIDENT, Event.RECLAIM_DONE): Phase.RECLAIMED,
}
NOTES = {Event.RECLAIM_PROPOSED, Event.WAIT_ENDED, Event.PINNED, Event.UNPINNED}
ALARMS = {Event.ALARM_RAISED, Event.ALARM_CLEARED}
ENDS = {Phase.GONE, Phase.LOST}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_every_pair_is_a_step_or_an_error(phase, event):
    """Each of all pairs goes where the house's picture says, or raises and names both."""
    expected = STEPS.get((phase, event))
    if event in NOTES and phase not in ENDS:
        expected = phase
    if event in ALARMS:
        expected = phase
    if event is Event.LOST and phase not in ENDS:
        expected = Phase.LOST
    if event is Event.KERNEL_GONE and phase is not Phase.GONE:
        expected = Phase.GONE
    if expected is not None:
        assert advance(phase, event) is expected
    else:
        with pytest.raises(IllegalTransition, match=f"{event.value} .* {phase.value}"):
            advance(phase, event)


def test_the_table_cannot_be_changed():
    """Whoever imports the table cannot add a step to it."""
    with pytest.raises(TypeError):
        TRANSITIONS[Phase.GONE, Event.RECLAIM_DONE] = Phase.RESIDENT
