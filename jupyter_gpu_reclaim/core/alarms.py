"""Alarms: a copy of GPU memory came out wrong, and what it was made with is not trusted until somebody clears that.

An alarm stands for one mechanism, GPU, driver and framework: with another of any of them it is tried again. Alarms are
rows of the log and nothing else, so they outlive the server, and whoever cleared one is on record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from jupyter_gpu_reclaim.core.model import Event, Holding, Phase, Snapshot, Transition


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One that stands. `id` is that of the log's row; what is None was not known, and counts as the same as any."""

    id: str
    raised_at: datetime
    kernel_id: str
    label: str
    phase: Phase  # of its kernel when it was raised
    mechanism: str | None
    gpu: str
    driver: str | None
    framework: str | None
    detail: str

    @property
    def subject(self) -> tuple[str | None, str, str | None, str | None]:
        """What is not trusted: mechanism, GPU, driver, framework."""
        return self.mechanism, self.gpu, self.driver, self.framework

    @property
    def sentence(self) -> str:
        """The alarm, for people."""
        made_with = (
            f"{self.mechanism}, {self.framework or 'an unknown framework'}, driver {self.driver or 'unknown'}"
        )
        return (
            f"A copy of GPU memory came out wrong on {self.gpu} ({made_with}; {self.raised_at:%Y-%m-%d %H:%M} UTC): "
            f"{self.detail} Nothing is reclaimed with these until an administrator clears alarm {self.id}."
        )


def standing(rows: Iterable[Transition]) -> tuple[Alarm, ...]:
    """The alarms that these rows (in any order, others among them) leave standing, oldest first, one a subject."""
    alarms: dict[tuple, Alarm] = {}
    ours = [row for row in rows if row.event in (Event.ALARM_RAISED, Event.ALARM_CLEARED)]
    for row in sorted(ours, key=lambda row: row.at):
        for gpu in row.footprint:
            alarm = _of(row, gpu)
            if row.event is Event.ALARM_CLEARED:
                alarms.pop(alarm.subject, None)
            else:
                alarms.setdefault(alarm.subject, alarm)
    return tuple(alarms.values())


def laid_over(snapshot: Snapshot, alarms: Sequence[Alarm]) -> Snapshot:
    """The snapshot with each holding told which alarm it is under."""
    if not alarms:
        return snapshot

    def under_alarm(holding: Holding) -> Holding:
        made_with = (holding.mechanism, holding.framework, snapshot.driver)
        sentences = (a.sentence for a in alarms if a.gpu in holding.footprint and _same(a, made_with))
        return replace(holding, distrusted=next(sentences, None))

    return replace(snapshot, holdings=tuple(map(under_alarm, snapshot.holdings)))


def _same(alarm: Alarm, made_with: tuple[str | None, ...]) -> bool:
    pairs = zip((alarm.mechanism, alarm.framework, alarm.driver), made_with, strict=True)
    return all(theirs is None or ours is None or theirs == ours for theirs, ours in pairs)


def _of(row: Transition, gpu: str) -> Alarm:
    return Alarm(
        id=row.id,
        raised_at=row.at,
        kernel_id=row.kernel_id,
        label=row.label,
        phase=row.phase,
        mechanism=row.mechanism,
        gpu=gpu,
        driver=row.driver,
        framework=row.framework,
        detail=row.detail,
    )
