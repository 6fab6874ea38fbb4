"""Transitions to rows of the tables and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from jupyter_gpu_reclaim.core.model import Event, Phase, Reason, Transition


class UnknownWord(Exception):
    """A row holds an event, phase or reason that this version does not know: a newer one wrote it."""


def to_row(transition: Transition) -> dict[str, Any]:
    """The transition as values of `tables.transitions`, but for `sequence`, which the database gives."""
    return {
        "id": transition.id,
        "at": transition.at,
        "kernel_id": transition.kernel_id,
        "event": transition.event.value,
        "phase": transition.phase.value,
        "episode_id": transition.episode_id,
        "reason": transition.reason.value if transition.reason is not None else None,
        "label": transition.label,
        "owner": transition.owner,
        "mechanism": transition.mechanism,
        "footprint": dict(transition.footprint),
        "moved_bytes": transition.moved_bytes,
        "freed_bytes": dict(transition.freed_bytes),
        "unmovable": dict(transition.unmovable),
        "took_seconds": transition.took.total_seconds() if transition.took is not None else None,
        "detail": transition.detail,
        "actor": transition.actor,
        "simulated": transition.simulated,
        "framework": transition.framework,
        "driver": transition.driver,
    }


def to_transition(row: Mapping[str, Any]) -> Transition:
    """The transition that was written, equal to it field by field. Raises `UnknownWord`."""
    try:
        event, phase = Event(row["event"]), Phase(row["phase"])
        reason = Reason(row["reason"]) if row["reason"] is not None else None
    except ValueError as error:
        raise UnknownWord(f"row {row['id']}: {error}") from error
    took = row["took_seconds"]
    return Transition(
        id=row["id"],
        at=row["at"],
        kernel_id=row["kernel_id"],
        event=event,
        phase=phase,
        episode_id=row["episode_id"],
        reason=reason,
        label=row["label"],
        owner=row["owner"],
        mechanism=row["mechanism"],
        footprint=row["footprint"],
        moved_bytes=row["moved_bytes"],
        freed_bytes=row["freed_bytes"],
        unmovable=row["unmovable"],
        took=timedelta(seconds=took) if took is not None else None,
        detail=row["detail"],
        actor=row["actor"],
        simulated=row["simulated"],
        framework=row["framework"],
        driver=row["driver"],
    )
