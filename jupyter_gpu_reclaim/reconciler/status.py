"""What the loop found and decided last, as one plain value for whoever shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

from jupyter_gpu_reclaim.core.alarms import Alarm
from jupyter_gpu_reclaim.core.eligibility import reclaim_due_at, warning_span
from jupyter_gpu_reclaim.core.explain import explain
from jupyter_gpu_reclaim.core.kernelspecs import policy_of
from jupyter_gpu_reclaim.core.model import Decision, Holding, Policy, Snapshot, Warn
from jupyter_gpu_reclaim.core.pace import Pace
from jupyter_gpu_reclaim.core.waits import WaitDetail, waits
from jupyter_gpu_reclaim.reconciler.history import History


@dataclass(frozen=True, kw_only=True)
class Status:
    """The last look, with the phases, wishes and pins of the reconciler laid over it. `snapshot` is None before it.

    `decisions`, `explanations` and `due_at` are by kernel id, and have every kernel of the snapshot.
    """

    policy: Policy
    snapshot: Snapshot | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    waits: Mapping[str, WaitDetail] = field(default_factory=dict)  # by kernel id, first in line first
    short_since: Mapping[str, datetime] = field(default_factory=dict)  # GPUs short of headroom
    pace: Pace = field(default_factory=Pace)  # of recent moves
    residence: Mapping[str, timedelta] = field(
        default_factory=dict
    )  # GPUs where whoever came back stays so long
    alarms: tuple[Alarm, ...] = ()  # that stand; each is also among the problems
    problems: tuple[str, ...] = ()  # what does not work at the moment, as sentences

    @cached_property
    def explanations(self) -> Mapping[str, str]:
        """A sentence for each decision. Put into words when first asked for: most looks nobody asks about."""
        return {
            h.kernel_id: explain(self.decisions[h.kernel_id], h, own, seen.taken_at, self.residence)
            for seen, h, own in self._judged()
        }

    @cached_property
    def due_at(self) -> Mapping[str, datetime | None]:
        """See `reclaim_due_at`."""
        return {h.kernel_id: reclaim_due_at(h, own, self.residence) for _, h, own in self._judged()}

    def _judged(self) -> Iterator[tuple[Snapshot, Holding, Policy]]:
        """Each kernel in what was seen, with what holds for it."""
        if (seen := self.snapshot) is not None:
            yield from ((seen, holding, policy_of(holding, self.policy)) for holding in seen.holdings)

    def due(self) -> Iterator[datetime]:
        """Instants after the look at which time alone calls for another: to reclaim a kernel, or to warn of that."""
        for seen, holding, own in self._judged():
            at = self.due_at[holding.kernel_id]
            for instant in () if at is None else (at - warning_span(own), at):
                if instant > seen.taken_at:
                    yield instant


def status_of(
    policy: Policy,
    snapshot: Snapshot,
    decisions: Mapping[str, Decision],
    history: History,
    problems: tuple[str, ...],
    alarms: tuple[Alarm, ...],
) -> Status:
    """The status after a round of decisions. Whom it warns counts as warned in it."""
    snapshot = _with_warnings(snapshot, decisions)
    return Status(
        policy=policy,
        snapshot=snapshot,
        decisions=decisions,
        waits=waits(snapshot, decisions, history.pace),
        short_since=dict(history.short_since),
        pace=history.pace,
        residence=dict(history.residence),
        problems=problems,
        alarms=alarms,
    )


def _with_warnings(snapshot: Snapshot, decisions: Mapping[str, Decision]) -> Snapshot:
    if not any(isinstance(decision, Warn) for decision in decisions.values()):
        return snapshot
    return replace(
        snapshot,
        holdings=tuple(
            replace(h, warned_at=snapshot.taken_at) if isinstance(decisions[h.kernel_id], Warn) else h
            for h in snapshot.holdings
        ),
    )
