"""The one decision. `decide()` says for every kernel what to do with its GPU bytes now, from values alone.

The rules, in the order in which they speak:

1. A kernel whose bytes are on their way is left to it.
2. **Restores** go in order of arrival, those that user code waits for before those a person wished for. Each goes
   ahead when its bytes are free on all its GPUs at once. One that does not fit reserves all it needs, so that nobody
   behind it takes bytes it waits for: others pass it on other GPUs or in what is left over, and none starves. (One that
   could not fit on an empty GPU reserves nothing.) A GPU that cannot be observed stops no restore that user code waits
   for: running out of memory there loses nothing, and waiting for a sight that may not come would hang the cell.
3. **Reclaims a person asked for**, then those that make room for a waiting restore (the smallest set that makes all
   the room, or none), then for restores waiting in other servers, then against pressure (as much as can be had), then
   of what has been idle for `idle_after`. Within each, who was used longest ago goes first. What is chosen never takes
   more host memory than there is above the reserve, and disk within its limit, all of it and all moves under way
   counted together; memory comes first.
4. `max_in_flight` reclaims run at once; the others keep their turn. Restores that fit are never held back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from jupyter_gpu_reclaim.core.eligibility import barrier, idle_for, idle_since
from jupyter_gpu_reclaim.core.model import (
    Decision,
    Holding,
    Keep,
    Phase,
    Policy,
    Reason,
    Reclaim,
    Restore,
    Snapshot,
    Wait,
)
from jupyter_gpu_reclaim.core.phase import IN_FLIGHT
from jupyter_gpu_reclaim.core.pressure import short_gpus
from jupyter_gpu_reclaim.core.room import Room, smallest_set, survey


def decide(
    snapshot: Snapshot, policy: Policy, pressure_since: Mapping[str, datetime]
) -> tuple[Decision, ...]:
    """Exactly one decision per holding, in the order of `snapshot.holdings`.

    Pure: equal arguments give equal decisions, and the order of the holdings changes none of them. `pressure_since`
    is what `track_pressure` returned for this snapshot.
    """
    return _Round(snapshot, policy).decisions(pressure_since)


class _Round:
    """The working paper of one call: candidates, what was chosen so far, and the room that leaves."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.now = snapshot.taken_at
        self.observed = None if snapshot.gpus is None else frozenset(gpu.uuid for gpu in snapshot.gpus)
        self.room: Room = survey(snapshot, policy)
        self.decided: dict[str, Decision] = {}
        self.chosen: dict[str, Reclaim] = {}  # in order of their turn
        self.turns = _turns(snapshot, policy)
        self.exhausted: set[str] = (
            set()
        )  # GPUs where nobody is left who could make the room that somebody waits for
        self.candidates: list[Holding] = []  # may be reclaimed, as far as each by itself can say

    def decisions(self, pressure_since: Mapping[str, datetime]) -> tuple[Decision, ...]:
        self._sort_out()
        self._reclaim_requested()
        self._admit()
        self._make_room_for_others()
        self._relieve(pressure_since)
        self._reclaim_idle()
        self._give_turns()
        return tuple(self.decided[holding.kernel_id] for holding in self.snapshot.holdings)

    # -- who may be reclaimed ---------------------------------------------------------------------------------------

    def _sort_out(self) -> None:
        for holding in self.snapshot.holdings:
            reason = _settled(holding)
            if reason is None and holding.phase is Phase.RESIDENT:
                reason = barrier(holding, self.policy, self.now, self.observed)
                if reason is None:
                    self.candidates.append(holding)
            if reason is not None:
                self._keep(holding, reason)
        self.candidates.sort(key=_least_recently_used)

    def _keep(self, holding: Holding, reason: Reason) -> None:
        self.decided[holding.kernel_id] = Keep(holding.kernel_id, reason)

    def _choose(self, holdings: Iterable[Holding], reason: Reason) -> None:
        for holding in holdings:
            spill_bytes = self.room.expect(holding)
            self.chosen[holding.kernel_id] = Reclaim(holding.kernel_id, reason, spill_bytes)

    def _spare(self) -> list[Holding]:
        """Candidates idle long enough to make room for somebody, least recently used first."""
        enough = min(self.policy.pressure_idle_after, self.policy.idle_after)
        return [
            holding
            for holding in self.candidates
            if holding.kernel_id not in self.chosen and idle_for(holding, self.now) >= enough
        ]

    # -- restores ---------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        waiting = [h for h in self.snapshot.holdings if h.kernel_id not in self.decided and _wants_back(h)]
        spare = self._spare()
        position = 0
        for holding in sorted(waiting, key=self._arrival):
            decision = self._admission(holding, position + 1)
            self.decided[holding.kernel_id] = decision
            if isinstance(decision, Restore):
                self.room.take(holding.footprint)
                continue
            position += 1
            if self._could_ever_fit(holding):
                spare = self._make_room(holding.footprint, spare)
                self.room.reserve(holding.footprint)

    def _arrival(self, holding: Holding) -> tuple:
        return (holding.waiting == 0, holding.restore_wanted_at or self.now, holding.kernel_id)

    def _admission(self, holding: Holding, position: int) -> Restore | Wait:
        name, need = holding.kernel_id, holding.footprint
        seen = self._sees(need)
        lacking = self.room.lacking_now(need) if seen else {}
        if holding.retry_at is not None and holding.retry_at > self.now:
            return Wait(name, Reason.RETRY_LATER, position, lacking)
        if not seen and not holding.waiting:
            return Wait(name, Reason.GPU_UNKNOWN, position)
        if lacking:
            crowded = any(n > self.room.free[uuid] for uuid, n in need.items())
            return Wait(name, Reason.NO_ROOM if crowded else Reason.QUEUED, position, lacking)
        return Restore(name, Reason.USER_CODE if holding.waiting else Reason.REQUESTED)

    def _sees(self, need: Mapping[str, int]) -> bool:
        return self.observed is not None and all(uuid in self.observed for uuid in need)

    def _could_ever_fit(self, holding: Holding) -> bool:
        need = holding.footprint
        return self._sees(need) and all(n <= self.room.total[uuid] for uuid, n in need.items())

    # -- reclaims ---------------------------------------------------------------------------------------------------

    def _make_room(self, need: Mapping[str, int], spare: list[Holding]) -> list[Holding]:
        """Choose the smallest set that makes all the room for `need`, or nobody. Returns who is still spare."""
        gap = self.room.lacking_soon(need)
        if not gap or len(self.chosen) >= self.turns or self.exhausted & gap.keys():
            return spare
        victims, unfilled = smallest_set(gap, spare, self.room.bytes_for_reclaims)
        if unfilled:
            # Whoever comes later lacks all that and their own need besides: no need to search again.
            self.exhausted |= unfilled.keys()
            return spare
        self._choose(victims, Reason.ADMISSION)
        return [holding for holding in spare if holding.kernel_id not in self.chosen]

    def _reclaim_requested(self) -> None:
        asked = [h for h in self.candidates if h.reclaim_wanted_at is not None]
        for holding in sorted(asked, key=lambda h: (h.reclaim_wanted_at, h.kernel_id)):
            if holding.host_bytes_to_take <= self.room.bytes_for_reclaims:
                self._choose([holding], Reason.REQUESTED)
            else:
                self._keep(holding, Reason.HOST_MEMORY)
        self.candidates = [h for h in self.candidates if h.reclaim_wanted_at is None]

    def _make_room_for_others(self) -> None:
        for uuid, wanted in sorted(self.snapshot.outside_pressure.items()):
            gap = self.room.short_of({uuid: wanted}) if self._sees({uuid: wanted}) else {}
            if gap:
                victims, unfilled = smallest_set(gap, self._spare(), self.room.bytes_for_reclaims)
                self._choose(() if unfilled else victims, Reason.ADMISSION)

    def _relieve(self, pressure_since: Mapping[str, datetime]) -> None:
        short = short_gpus(self.policy, pressure_since, self.now)
        wanted = {uuid: self.policy.headroom_bytes for uuid in short if self._sees({uuid: 0})}
        gap = self.room.short_of(wanted)
        if gap:
            victims, _ = smallest_set(gap, self._spare(), self.room.bytes_for_reclaims)
            self._choose(victims, Reason.PRESSURE)

    def _reclaim_idle(self) -> None:
        for holding in self.candidates:
            if holding.kernel_id in self.chosen:
                continue
            if idle_for(holding, self.now) < self.policy.idle_after:
                self._keep(holding, Reason.RECENTLY_ACTIVE)
            elif holding.host_bytes_to_take > self.room.bytes_for_reclaims:
                self._keep(holding, Reason.HOST_MEMORY)
            else:
                self._choose([holding], Reason.IDLE)

    def _give_turns(self) -> None:
        for turn, (kernel_id, reclaim) in enumerate(self.chosen.items()):
            self.decided[kernel_id] = reclaim if turn < self.turns else Keep(kernel_id, Reason.TURN)


def _turns(snapshot: Snapshot, policy: Policy) -> int:
    """How many reclaims may begin now. In a dry run nothing gets under way, so nobody has to wait for it."""
    if policy.mode == "dry_run":
        return len(snapshot.holdings)
    moving = sum(holding.phase is Phase.RECLAIMING for holding in snapshot.holdings)
    return max(0, policy.max_in_flight - moving)


def _settled(holding: Holding) -> Reason | None:
    """Why this kernel is left alone whatever the others do, as far as its phase and its wishes say; None: open."""
    if holding.phase in IN_FLIGHT:
        return Reason.IN_FLIGHT
    if holding.phase is Phase.GONE:
        return Reason.KERNEL_ENDED
    if holding.phase is Phase.LOST:
        return Reason.LOST
    if holding.phase is Phase.RECLAIMED:
        if not holding.managed:
            return Reason.LINK_LOST
        return None if _wants_back(holding) else Reason.ALREADY_RECLAIMED
    return Reason.ALREADY_RESIDENT if holding.restore_wanted_at is not None else None


def _wants_back(holding: Holding) -> bool:
    return bool(holding.waiting) or holding.restore_wanted_at is not None


def _least_recently_used(holding: Holding) -> tuple:
    return (idle_since(holding), -holding.footprint_bytes, holding.kernel_id)
