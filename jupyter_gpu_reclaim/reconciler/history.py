"""What rounds leave for the next one. Kept here, folded by pure functions of `core`, handed to `decide()`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.admission import track_overtaken
from jupyter_gpu_reclaim.core.model import Decision, Event, Policy, Snapshot, Transition
from jupyter_gpu_reclaim.core.pace import Pace, measure, track_residence
from jupyter_gpu_reclaim.core.policy import decide
from jupyter_gpu_reclaim.core.pressure import track_pressure

MOVES_KEPT = 500


class History:
    """Begins empty with each server: GPUs are short, kernels overtaken and moves slow only as far as it has seen."""

    def __init__(self) -> None:
        self._moves: deque[Transition] = deque(maxlen=MOVES_KEPT)
        self._overtaken: Mapping[str, int] = {}
        self.short_since: Mapping[str, datetime] = {}
        self.residence: Mapping[str, timedelta] = {}
        self.pace = Pace()

    def take(self, row: Transition) -> None:
        """Take in a row of the log, if it is about a move that was done."""
        if row.event in (Event.RECLAIM_DONE, Event.RESTORE_DONE):
            self._moves.append(row)

    def decide(self, snapshot: Snapshot, policy: Policy) -> tuple[Decision, ...]:
        """One round: what was left is brought up to this snapshot, and what this round leaves is kept."""
        self.short_since = track_pressure(snapshot, policy, self.short_since)
        self.pace = measure(self._moves, snapshot.taken_at)
        self.residence = track_residence(self.pace, policy, self.residence)
        decisions = decide(snapshot, policy, self.short_since, self._overtaken, self.residence)
        self._overtaken = track_overtaken(decisions, self._overtaken)
        return decisions
