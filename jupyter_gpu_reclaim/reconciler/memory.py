"""What the reconciler remembers of one kernel from tick to tick, and how that is laid over what was observed.

The agent has the last word on where the bytes are. Its word and the memory can differ: after a crash, after a move
that was given up as failed and went on, when the agent restores by itself. `settle()` says which rows make them agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from jupyter_gpu_reclaim.core.model import (
    Event,
    Failed,
    Holding,
    Outcome,
    Phase,
    Policy,
    Reason,
    Refused,
    Transition,
)
from jupyter_gpu_reclaim.core.phase import IN_FLIGHT

SETTLE_AFTER = timedelta(seconds=1)
"""An agent that contradicts us must do so for this long: a status may have crossed an outcome on its way."""
ADMITTED_FOR = timedelta(seconds=2)
"""Code that was admitted and has not been seen to go ahead by then is looked at anew."""
GROWTH = 1.1
"""After running out of GPU memory, room is made for this many times the bytes: rounding and fragments take some.

For `retry_after` beyond the rest only: where so much can never be free, the plain need must get its chance again.
"""


@dataclass(slots=True, kw_only=True, eq=False)
class KernelMemory:
    """One kernel. `holding` is what was observed last; everything else only the reconciler knows."""

    holding: Holding
    phase: Phase
    phase_since: datetime | None
    resident_since: datetime | None = None  # `phase_since` again, after a reclaim that did not come about
    pid: int | None = None  # of the process whose agent spoke last
    touched: bool = False  # rows of ours have moved its phase
    recalled: bool = False  # the log was asked about this kernel's past
    newborn: bool = False  # it came after our first look
    moving: bool = False  # a move of ours is under way
    episode_id: str | None = None
    needed: dict[str, int] = field(default_factory=dict)  # bytes per GPU to come back, before growth
    pinned_until: datetime | None = None
    waiting_since: datetime | None = None  # user code has been waiting at the gate since then
    retry_at: datetime | None = None
    failures: int = 0  # moves that did not succeed, in a row
    out_of_memory: int = 0  # restores among them for which the room was too small
    grown_until: datetime | None = None  # so long more room is made than was measured
    warned_at: datetime | None = None  # its user was told that it will be reclaimed
    restored_early: bool = False  # the last restore was a prefetch, and nobody used the kernel since
    admitted_at: datetime | None = None  # code that waits inside it was told to go ahead
    went_ahead: asyncio.Event = field(default_factory=asyncio.Event)  # it was seen to, since then
    place_refused: datetime | None = None  # the wait for a running place, by its beginning, that was ended
    proposed_for: datetime | None = None  # dry run: the idle spell that was logged, by its beginning
    disagrees_since: datetime | None = None
    laid: tuple[Holding, Mapping[str, Any], Holding] | None = None  # what was seen, known, and came of both

    @property
    def kernel_id(self) -> str:
        """Jupyter's id of the kernel."""
        return self.holding.kernel_id

    def observe(self, holding: Holding, now: datetime) -> None:
        """Take in what a look has found."""
        if self.phase is Phase.RESIDENT and holding.last_active_at != self.holding.last_active_at:
            self.rested()  # it was used since: whatever stood in the way may be gone
        if holding.running_since or holding.waiting or holding.last_active_at != self.holding.last_active_at:
            self.warned_at, self.restored_early = None, False
        if self.admitted_at is not None and not _waits_since(holding, self.admitted_at):
            self.admitted_at = None
            self.went_ahead.set()
        self.holding = holding
        if holding.managed and holding.pid is not None:
            self.pid = holding.pid
        if holding.managed and holding.phase is Phase.RECLAIMED and holding.footprint:
            self.needed = dict(holding.footprint)
        if not holding.waiting:
            self.waiting_since = None
        elif self.waiting_since is None:
            self.waiting_since = now

    def overlaid(self, totals: Mapping[str, int], now: datetime) -> Holding:
        """The holding with the phase, pin, rest and needs that `decide()` is to go by. `totals`: bytes per GPU."""
        seen = self.holding
        agent_moves = seen.managed and seen.phase in IN_FLIGHT and self.phase not in (Phase.LOST, Phase.GONE)
        phase = seen.phase if agent_moves and not self.moving else self.phase
        away = phase in (Phase.RECLAIMED, Phase.RESTORING)
        progress = seen.phase is phase
        known = {
            "phase": phase,
            "phase_since": self.phase_since,
            "footprint": self._to_come_back(totals, now) if away else seen.footprint,
            "moved_bytes": seen.moved_bytes if progress else None,
            "move_total_bytes": seen.move_total_bytes if progress else None,
            "pinned_until": self.pinned_until,
            "warned_at": self.warned_at,
            "restored_early": self.restored_early and phase is Phase.RESIDENT,
            "admitted_at": self.admitted_at if self._was_admitted(now) else None,
            "restore_wanted_at": self.waiting_since if phase is Phase.RECLAIMED else None,
            "retry_at": self.retry_at,
        }
        # Most kernels are as they were, and making another holding of each takes most of the time of a round.
        seen_before, known_before, laid = self.laid or (None, None, seen)
        if seen_before is not seen or known_before != known:
            news = {name: value for name, value in known.items() if getattr(seen, name) != value}
            laid = replace(seen, **news) if news else seen
            self.laid = seen, known, laid
        return laid

    def _was_admitted(self, now: datetime) -> bool:
        return self.admitted_at is not None and now - self.admitted_at < ADMITTED_FOR

    def _to_come_back(self, totals: Mapping[str, int], now: datetime) -> dict[str, int]:
        grown = self.grown_until is not None and now < self.grown_until
        factor = GROWTH ** min(self.out_of_memory, 99) if grown else 1.0
        return {uuid: max(n, min(int(n * factor), totals.get(uuid, n))) for uuid, n in self.needed.items()}

    def admit(self, now: datetime) -> None:
        """Code that waits inside the kernel is told to go ahead."""
        self.admitted_at = now
        self.went_ahead.clear()

    def waited_since(self) -> datetime | None:
        """Since when code waits at the kernel's gate, for its data or for a place, and has not been told to give up."""
        place_since = self.holding.place_wanted_at
        return self.waiting_since or (None if place_since == self.place_refused else place_since)

    def give_up_waiting(self) -> None:
        """Code that waits was told to end; what comes after it waits anew."""
        self.place_refused, self.waiting_since = self.holding.place_wanted_at, None
        self.rested()

    def rest(self, outcome: Outcome, was: Phase, policy: Policy, now: datetime) -> None:
        """After a move that did not succeed: when to try again. Restores sooner at first, since somebody waits.

        One that found its room taken under the lock has not failed: the next look sees as much, and it waits in line.
        """
        if isinstance(outcome, Refused) and outcome.reason is Reason.NO_ROOM:
            return
        self.failures += 1
        if was is Phase.RESTORING:
            self.out_of_memory += isinstance(outcome, Failed) and outcome.out_of_memory
            span = min(timedelta(seconds=2.0 ** min(self.failures - 1, 20)), policy.retry_after)
        else:
            span = policy.retry_after * 2 ** min(self.failures - 1, 5)
        self.retry_at = now + span
        self.grown_until = self.retry_at + policy.retry_after if self.out_of_memory else None

    def rested(self) -> None:
        """A move succeeded: former failures do not count any more."""
        self.failures = self.out_of_memory = 0
        self.retry_at = self.grown_until = None


def _waits_since(holding: Holding, at: datetime) -> bool:
    """Whether code that waited in the kernel then waits still; what began to wait later is another wait."""
    begun = (holding.room_wanted_at if any(holding.room_wanted.values()) else None, holding.place_wanted_at)
    return any(since is not None and since <= at for since in begun)


def settle(memory: KernelMemory, now: datetime, at_once: bool) -> tuple[Event, Reason | None, str] | None:
    """The event that makes the memory agree with what the agent says, or None while there is nothing to settle."""
    seen = memory.holding
    known = seen.managed and not memory.moving
    if not known or seen.phase is memory.phase or (memory.phase, seen.phase) not in _SETTLED_BY:
        memory.disagrees_since = None
        return None
    if memory.disagrees_since is None:
        memory.disagrees_since = now
    if not at_once and now - memory.disagrees_since < SETTLE_AFTER:
        return None
    memory.disagrees_since = None
    return _SETTLED_BY[memory.phase, seen.phase]


_BY_ITSELF = "The agent's word: the kernel had its data back on the GPU without being told."
_UNSEEN_DONE = "The agent's word: the move was finished while the server could not see it."
_UNSEEN_BACK = (
    "The agent's word: the move did not come about while the server could not see it; nothing was lost."
)
_SETTLED_BY = {
    (Phase.RECLAIMING, Phase.RECLAIMED): (Event.RECLAIM_DONE, None, _UNSEEN_DONE),
    (Phase.RECLAIMING, Phase.RESIDENT): (Event.RECLAIM_FAILED, None, _UNSEEN_BACK),
    (Phase.RESTORING, Phase.RESIDENT): (Event.RESTORE_DONE, None, _UNSEEN_DONE),
    (Phase.RESTORING, Phase.RECLAIMED): (Event.RESTORE_FAILED, None, _UNSEEN_BACK),
    (Phase.RECLAIMED, Phase.RESIDENT): (Event.RESTORE_DONE, Reason.SELF_RESTORED, _BY_ITSELF),
    (Phase.RESIDENT, Phase.RECLAIMED): (Event.RECLAIM_DONE, None, _UNSEEN_DONE),
}


def restarted(memory: KernelMemory, holding: Holding) -> bool:
    """Whether another process now answers to this kernel id, so that what was reclaimed is gone with the old one.

    Only agents are compared: without one, Jupyter knows the pid of the launcher, which need not be the kernel's.
    """
    return holding.managed and memory.pid is not None and holding.pid not in (None, memory.pid)


def recall(memory: KernelMemory, rows: Sequence[Transition]) -> None:
    """Take up what the log knows of the kernel (rows newest first): its pin, its phase, and the episode it is in.

    A kernel that the log does not know, or knows as ended, begins as resident: what its agent says comes after.
    """
    memory.recalled = True
    if memory.pinned_until is None:
        memory.pinned_until = _pin(rows)
    if memory.touched:
        return
    memory.phase = Phase.RESIDENT
    if rows and rows[0].phase is not Phase.GONE:
        memory.phase = rows[0].phase
        memory.episode_id = next((row.episode_id for row in rows if row.episode_id), None)


def _pin(rows: Sequence[Transition]) -> datetime | None:
    for row in rows:
        if row.event is Event.PINNED:
            return datetime.fromisoformat(row.detail)
        if row.event is Event.UNPINNED:
            return None
    return None
