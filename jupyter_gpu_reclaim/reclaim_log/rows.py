"""Transitions to rows of the tables and back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Row

from jupyter_gpu_reclaim.core.model import Event, Phase, Reason, Transition
from jupyter_gpu_reclaim.reclaim_log.selection import utc


class UnknownWord(Exception):
    """A row holds an event, phase or reason that this version does not know: a newer one wrote it."""


def to_row(transition: Transition) -> tuple[Any, ...]:
    """The transition as values of `tables.transitions` in their order, but for `sequence`, which the database gives.

    Raises ValueError for a naive instant.
    """
    return (
        transition.id,
        utc(transition.at),
        transition.kernel_id,
        transition.event.value,
        transition.phase.value,
        transition.episode_id,
        transition.reason.value if transition.reason is not None else None,
        transition.label,
        transition.owner,
        transition.mechanism,
        dict(transition.footprint),
        transition.moved_bytes,
        dict(transition.freed_bytes),
        dict(transition.unmovable),
        transition.took.total_seconds() if transition.took is not None else None,
        transition.detail,
        transition.actor,
        transition.simulated,
        transition.framework,
        transition.driver,
    )


def to_transition(row: Row) -> Transition:
    """The transition that was written, equal to it field by field. Raises `UnknownWord`.

    `row` has all columns of `tables.transitions` in their order: by place it takes half the time.
    """
    (_, id, at, kernel_id, event, phase, episode_id, reason, label, owner, mechanism, footprint, moved_bytes,
     freed_bytes, unmovable, took, detail, actor, simulated, framework, driver) = row  # fmt: skip
    try:
        return Transition(
            id=id,
            at=at,
            kernel_id=kernel_id,
            event=_EVENTS[event],
            phase=_PHASES[phase],
            episode_id=episode_id,
            reason=_REASONS[reason],
            label=label,
            owner=owner,
            mechanism=mechanism,
            footprint=footprint,
            moved_bytes=moved_bytes,
            freed_bytes=freed_bytes,
            unmovable=unmovable,
            took=timedelta(seconds=took) if took is not None else None,
            detail=detail,
            actor=actor,
            simulated=simulated,
            framework=framework,
            driver=driver,
        )
    except KeyError as error:
        raise UnknownWord(f"row {id}: {error} is no event, phase or reason") from error


_EVENTS = {event.value: event for event in Event}
_PHASES = {phase.value: phase for phase in Phase}
_REASONS = {None: None} | {reason.value: reason for reason in Reason}
