"""The state machine of a kernel's GPU bytes: one table, one function."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jupyter_gpu_reclaim.core.model import Event, Phase

IN_FLIGHT = frozenset({Phase.RECLAIMING, Phase.RESTORING})
"""Phases in which bytes are on their way."""

_MOVES = {
    (Phase.RESIDENT, Event.RECLAIM_STARTED): Phase.RECLAIMING,
    (Phase.RECLAIMING, Event.RECLAIM_DONE): Phase.RECLAIMED,
    (Phase.RECLAIMING, Event.RECLAIM_REFUSED): Phase.RESIDENT,
    (Phase.RECLAIMING, Event.RECLAIM_FAILED): Phase.RESIDENT,
    (Phase.RECLAIMED, Event.RESTORE_STARTED): Phase.RESTORING,
    (Phase.RESTORING, Event.RESTORE_DONE): Phase.RESIDENT,
    (Phase.RESTORING, Event.RESTORE_REFUSED): Phase.RECLAIMED,
    (Phase.RESTORING, Event.RESTORE_FAILED): Phase.RECLAIMED,
    # The agent has the last word: it may restore by itself, or end a move that the server had given up on.
    (Phase.RECLAIMED, Event.RESTORE_DONE): Phase.RESIDENT,
    (Phase.RESIDENT, Event.RECLAIM_DONE): Phase.RECLAIMED,
}

_NOTES = (Event.RECLAIM_PROPOSED, Event.WAIT_ENDED, Event.PINNED, Event.UNPINNED)
_ALARMS = (Event.ALARM_RAISED, Event.ALARM_CLEARED)  # these outlive the kernel
_ALIVE = tuple(phase for phase in Phase if phase not in (Phase.GONE, Phase.LOST))

TRANSITIONS: Mapping[tuple[Phase, Event], Phase] = MappingProxyType(
    _MOVES
    | {(phase, note): phase for phase in _ALIVE for note in _NOTES}
    | {(phase, alarm): phase for phase in Phase for alarm in _ALARMS}
    | {(phase, Event.LOST): Phase.LOST for phase in _ALIVE}
    | {(phase, Event.KERNEL_GONE): Phase.GONE for phase in (*_ALIVE, Phase.LOST)}
)
"""(phase, event) → the phase after it. What is not in here cannot happen."""


class IllegalTransition(ValueError):
    """An event that cannot happen in this phase: a defect of the caller, never of the world."""


def advance(phase: Phase, event: Event) -> Phase:
    """The phase after `event`. Raises `IllegalTransition` for a pair that the table does not know."""
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise IllegalTransition(f"{event.value} cannot happen to a kernel that is {phase.value}") from None
