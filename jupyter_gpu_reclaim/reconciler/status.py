"""What the loop found and decided last, as one plain value for whoever shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.alarms import Alarm
from jupyter_gpu_reclaim.core.eligibility import reclaim_due_at, warning_span
from jupyter_gpu_reclaim.core.explain import explain
from jupyter_gpu_reclaim.core.kernelspecs import policy_of
from jupyter_gpu_reclaim.core.model import Decision, Policy, Snapshot, Warn
from jupyter_gpu_reclaim.core.pace import Pace
from jupyter_gpu_reclaim.core.waits import WaitDetail, waits
from jupyter_gpu_reclaim.reconciler.history import History


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The last look, with the phases, wishes and pins of the reconciler laid over it. `snapshot` is None before it.

    `decisions`, `explanations` and `due_at` are by kernel id, and have every kernel of the snapshot.
    """

    policy: Policy
    snapshot: Snapshot | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    explanations: Mapping[str, str] = field(default_factory=dict)
    due_at: Mapping[str, datetime | None] = field(default_factory=dict)  # see `reclaim_due_at`
    waits: Mapping[str, WaitDetail] = field(default_factory=dict)  # by kernel id, first in line first
    short_since: Mapping[str, datetime] = field(default_factory=dict)  # GPUs short of headroom
    pace: Pace = field(default_factory=Pace)  # of recent moves
    residence: Mapping[str, timedelta] = field(
        default_factory=dict
    )  # GPUs where whoever came back stays so long
    alarms: tuple[Alarm, ...] = ()  # that stand; each is also among the problems
    problems: tuple[str, ...] = ()  # what does not work at the moment, as sentences

    def due(self) -> Iterator[datetime]:
        """Instants after the look at which time alone calls for another: to reclaim a kernel, or to warn of that."""
        if self.snapshot is None:
            return
        for holding in self.snapshot.holdings:
            at = self.due_at.get(holding.kernel_id)
            for instant in () if at is None else (at - warning_span(policy_of(holding, self.policy)), at):
                if instant > self.snapshot.taken_at:
                    yield instant


def status_of(
    policy: Policy,
    snapshot: Snapshot,
    decisions: Mapping[str, Decision],
    history: History,
    problems: tuple[str, ...],
    alarms: tuple[Alarm, ...],
) -> Status:
    """The status after a round of decisions, with a sentence for each. Whom it warns counts as warned in it."""
    snapshot = _with_warnings(snapshot, decisions)
    holdings = {holding.kernel_id: holding for holding in snapshot.holdings}
    own = {name: policy_of(holding, policy) for name, holding in holdings.items()}
    return Status(
        policy=policy,
        snapshot=snapshot,
        decisions=decisions,
        explanations={
            name: explain(decision, holdings[name], own[name], snapshot.taken_at, history.residence)
            for name, decision in decisions.items()
        },
        due_at={
            name: reclaim_due_at(holding, own[name], history.residence) for name, holding in holdings.items()
        },
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
