"""Episodes: one reclaim and its restore, folded from the rows of the log."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from jupyter_gpu_reclaim.core.model import Event, Reason, Transition


class EpisodeOutcome(StrEnum):
    """How an episode stands, or ended."""

    RECLAIMING = "reclaiming"
    RECLAIMED = "reclaimed"
    RESTORING = "restoring"
    RESTORED = "restored"
    REFUSED = "refused"  # the agent found the kernel in use; nothing was moved
    FAILED = "failed"  # the reclaim failed and was rolled back
    KERNEL_GONE = "kernel_gone"
    LOST = "lost"


OUTCOMES: Mapping[str, tuple[Event, ...]] = {
    "done": (Event.RECLAIM_DONE, Event.RESTORE_DONE),
    "refused": (Event.RECLAIM_REFUSED, Event.RESTORE_REFUSED),
    "failed": (Event.RECLAIM_FAILED, Event.RESTORE_FAILED),
    "kernel_gone": (Event.KERNEL_GONE,),
    "lost": (Event.LOST,),
}
"""How a move ended → the rows that say so."""

OPEN = frozenset({EpisodeOutcome.RECLAIMING, EpisodeOutcome.RECLAIMED, EpisodeOutcome.RESTORING})


def rows_of(outcome: str, events: Collection[Event] = ()) -> tuple[Event, ...]:
    """The events whose rows have this outcome, of those given if any are. Raises ValueError where there is none."""
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}")
    found = tuple(event for event in OUTCOMES[outcome] if not events or event in events)
    if not found:
        raise ValueError(f"no row with such an event has the outcome {outcome}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One reclaim and, once it happened, its restore. What has not happened yet, or was never logged, is None."""

    id: str
    kernel_id: str
    outcome: EpisodeOutcome
    started_at: datetime  # of the first row known
    label: str = ""
    owner: str = ""
    reason: Reason | None = None  # why it was reclaimed
    restore_reason: Reason | None = None
    actor: str = ""  # the person or service that asked for the reclaim; "" for the policy itself
    mechanism: str | None = None
    footprint: Mapping[str, int] = field(default_factory=dict)  # bytes per GPU before the reclaim
    moved_bytes: int | None = None
    freed_bytes: Mapping[str, int] = field(default_factory=dict)
    unmovable: Mapping[str, int] = field(default_factory=dict)
    reclaimed_at: datetime | None = None
    reclaim_took: timedelta | None = None
    restored_at: datetime | None = None
    restore_took: timedelta | None = None
    restore_failures: int = 0
    ended_at: datetime | None = None
    detail: str = ""  # of the last row that had one
    simulated: bool = False

    @property
    def reclaimed_for(self) -> timedelta | None:
        """How long the GPU was free of these bytes; None while they are away or if they never left."""
        if self.reclaimed_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.reclaimed_at


def fold(rows: Iterable[Transition]) -> tuple[Episode, ...]:
    """The episodes in these rows, oldest first. Rows may come in any order and more than once.

    Rows that belong to no episode (pins, dry-run proposals) are passed over. Rows of an episode whose beginning lies
    outside the range asked for still make an episode, with what is known of it.
    """
    unique = {row.id: row for row in rows if row.episode_id is not None}
    episodes: dict[str, Episode] = {}
    for row in sorted(unique.values(), key=lambda row: (row.at, row.id)):
        assert row.episode_id is not None
        before = episodes.get(row.episode_id) or _beginning(row)
        episodes[row.episode_id] = _with_row(before, row)
    return tuple(sorted(episodes.values(), key=lambda e: (e.started_at, e.id)))


def _beginning(row: Transition) -> Episode:
    return Episode(
        id=row.episode_id or "",
        kernel_id=row.kernel_id,
        outcome=EpisodeOutcome.RECLAIMING,
        started_at=row.at,
        label=row.label,
        owner=row.owner,
        simulated=row.simulated,
    )


def _with_row(episode: Episode, row: Transition) -> Episode:
    if row.detail:
        episode = replace(episode, detail=row.detail)
    match row.event:
        case Event.RECLAIM_STARTED:
            return replace(
                episode, reason=row.reason, actor=row.actor, mechanism=row.mechanism, footprint=row.footprint
            )
        case Event.RECLAIM_DONE:
            return replace(
                episode,
                outcome=EpisodeOutcome.RECLAIMED,
                reclaimed_at=row.at,
                reclaim_took=row.took,
                moved_bytes=row.moved_bytes,
                freed_bytes=row.freed_bytes,
                unmovable=row.unmovable,
                ended_at=None,  # a reclaim that had been given up as failed may turn out to be done
            )
        case Event.RESTORE_STARTED:
            return replace(episode, outcome=EpisodeOutcome.RESTORING, restore_reason=row.reason)
        case Event.RESTORE_REFUSED:
            return replace(episode, outcome=EpisodeOutcome.RECLAIMED)
        case Event.RESTORE_FAILED:
            failures = episode.restore_failures + 1
            return replace(episode, outcome=EpisodeOutcome.RECLAIMED, restore_failures=failures)
        case Event.RESTORE_DONE:
            # A restore that the agent did by itself has no RESTORE_STARTED row to carry its reason.
            why = row.reason if row.reason is Reason.SELF_RESTORED else episode.restore_reason or row.reason
            return replace(
                episode,
                outcome=EpisodeOutcome.RESTORED,
                restore_reason=why,
                restored_at=row.at,
                restore_took=row.took,
                ended_at=row.at,
            )
    ending = _ENDINGS.get(row.event)
    return episode if ending is None else replace(episode, outcome=ending, ended_at=row.at)


_ENDINGS = {
    Event.RECLAIM_REFUSED: EpisodeOutcome.REFUSED,
    Event.RECLAIM_FAILED: EpisodeOutcome.FAILED,
    Event.KERNEL_GONE: EpisodeOutcome.KERNEL_GONE,
    Event.LOST: EpisodeOutcome.LOST,
}
