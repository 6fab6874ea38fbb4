"""The one decision. `decide()` says for every kernel what to do with its GPU bytes now, from values alone.

The rules, in the order in which they speak:

1. A kernel whose bytes are on their way is left to it.
2. **Whoever waits** for room or for a running place stands in one line (`admission.py`). A GPU that cannot be observed
   stops no user code: running out of memory there loses nothing, and waiting for a sight that may not come would hang
   the cell.
3. **Reclaims a person asked for**, then those that make room for somebody who waits (the smallest set that makes all
   the room, or none), then for restores waiting in other servers and against pressure (as much as can be had), then
   of what has been idle for `idle_after`, which its user is told `warn_before` ahead. Within each, the lowest priority
   goes first, then who was used longest ago. What is chosen never takes more host memory than there is above the
   reserve, and disk within its limit, all of it and all moves under way counted together; memory comes first.
4. **Early restores** take what is left: room that nobody waits for, beside the headroom. Nobody is reclaimed for one,
   and a kernel that came back early and was not used is the first to give way.
5. `max_in_flight` reclaims run at once; the others keep their turn. Restores that fit are never held back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.admission import Admission, line, waits_inside, wants_back
from jupyter_gpu_reclaim.core.eligibility import (
    NO_LONGER,
    barrier,
    idle_for,
    is_warned,
    spare_after,
    spare_for,
    warning_span,
)
from jupyter_gpu_reclaim.core.kernelspecs import policy_of
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
    Warn,
)
from jupyter_gpu_reclaim.core.phase import IN_FLIGHT
from jupyter_gpu_reclaim.core.places import count_places
from jupyter_gpu_reclaim.core.pressure import short_gpus
from jupyter_gpu_reclaim.core.room import Room, smallest_set, survey

NOBODY: Mapping[str, int] = {}


def decide(
    snapshot: Snapshot,
    policy: Policy,
    pressure_since: Mapping[str, datetime],
    overtaken: Mapping[str, int] = NOBODY,
    residence: Mapping[str, timedelta] = NO_LONGER,
) -> tuple[Decision, ...]:
    """Exactly one decision per holding, in the order of `snapshot.holdings`.

    Pure: equal arguments give equal decisions, and the order of the holdings changes none of them. What earlier rounds
    have left comes in as arguments: `pressure_since` is what `track_pressure` returned for this snapshot, `residence`
    what `track_residence` did, and `overtaken` what `track_overtaken` returned for the last round's decisions.
    """
    return _Round(snapshot, policy, residence).decisions(pressure_since, overtaken)


class _Round:
    """The working paper of one call: candidates, what was chosen so far, and the room that leaves."""

    def __init__(self, snapshot: Snapshot, policy: Policy, residence: Mapping[str, timedelta]) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.residence = residence
        self.now = snapshot.taken_at
        self.observed = None if snapshot.gpus is None else frozenset(gpu.uuid for gpu in snapshot.gpus)
        self.room: Room = survey(snapshot, policy)
        self.decided: dict[str, Decision] = {}
        self.chosen: dict[str, Reclaim] = {}  # in order of their turn
        self.turns = _turns(snapshot, policy)
        self.exhausted: set[str] = set()  # GPUs where nobody can make the room that somebody waits for
        self.candidates: list[Holding] = []  # may be reclaimed, as far as each by itself can say

    def decisions(
        self, pressure_since: Mapping[str, datetime], overtaken: Mapping[str, int]
    ) -> tuple[Decision, ...]:
        self._sort_out()
        self._reclaim_requested()
        self._admit(overtaken)
        self._make_room_for_others()
        self._relieve(pressure_since)
        self._reclaim_idle()
        self._restore_early()
        self._give_turns()
        return tuple(self.decided[holding.kernel_id] for holding in self.snapshot.holdings)

    # -- who may be reclaimed ---------------------------------------------------------------------------------------

    def _sort_out(self) -> None:
        for holding in self.snapshot.holdings:
            reason = _settled(holding)
            if reason is None and holding.phase is Phase.RESIDENT and not waits_inside(holding):
                own = policy_of(holding, self.policy)
                reason = barrier(holding, own, self.now, self.observed, self.residence)
                if reason is None:
                    self.candidates.append(holding)
            if reason is not None:
                self._keep(holding, reason)
        self.candidates.sort(key=self._gives_way_first)

    def _gives_way_first(self, holding: Holding) -> tuple:
        spare = spare_for(holding, self.now)
        return (holding.priority, -spare, -holding.footprint_bytes, holding.kernel_id)

    def _keep(self, holding: Holding, reason: Reason) -> None:
        self.decided[holding.kernel_id] = Keep(holding.kernel_id, reason)

    def _choose(self, holdings: Iterable[Holding], reason: Reason) -> None:
        for holding in holdings:
            spill_bytes = self.room.expect(holding)
            self.chosen[holding.kernel_id] = Reclaim(holding.kernel_id, reason, spill_bytes)

    def _spare(self) -> list[Holding]:
        """Candidates idle long enough to make room for somebody, in the order in which they give way."""
        return [
            holding
            for holding in self.candidates
            if holding.kernel_id not in self.chosen
            and spare_for(holding, self.now) >= spare_after(policy_of(holding, self.policy))
        ]

    # -- whoever waits ----------------------------------------------------------------------------------------------

    def _admit(self, overtaken: Mapping[str, int]) -> None:
        open_to_all = [h for h in self.snapshot.holdings if h.kernel_id not in self.decided]
        places = count_places(self.snapshot, self.policy)
        spare = self._spare()

        def make_room(need: Mapping[str, int], kept: bool) -> bool:
            nonlocal spare
            spare, nobody_can = self._make_room(need, spare, kept)
            return nobody_can

        admission = Admission(self.snapshot, self.room, places, overtaken, make_room)
        self.decided.update(admission.decisions(line(open_to_all, self.policy, self.now)))

    def _sees(self, need: Mapping[str, int]) -> bool:
        return self.observed is not None and self.observed.issuperset(need)

    def _restore_early(self) -> None:
        """Grant wishes to prefetch, as far as that takes nothing from anybody, not even from the headroom."""
        waits = [d for d in self.decided.values() if isinstance(d, Wait)]
        wanted = {uuid for wait in waits for uuid in wait.missing} | self.snapshot.outside_pressure.keys()
        wishes = [
            holding
            for holding in self.snapshot.holdings
            if holding.prefetch_wanted_at is not None
            and holding.phase is Phase.RECLAIMED
            and holding.kernel_id not in self.decided
        ]
        for holding in sorted(wishes, key=lambda h: (h.prefetch_wanted_at, h.kernel_id)):
            need = {uuid: n + self.policy.headroom_bytes for uuid, n in holding.footprint.items()}
            if holding.retry_at is not None and holding.retry_at > self.now:
                self._keep(holding, Reason.RETRY_LATER)
            elif not self._sees(need) or wanted & need.keys() or self.room.lacking_now(need):
                self._keep(holding, Reason.NO_SPARE_ROOM)
            else:
                self.decided[holding.kernel_id] = Restore(holding.kernel_id, Reason.PREFETCH)
                self.room.take(holding.footprint)

    # -- reclaims ---------------------------------------------------------------------------------------------------

    def _make_room(
        self, need: Mapping[str, int], spare: list[Holding], kept: bool
    ) -> tuple[list[Holding], bool]:
        """Choose the smallest set that makes all the room for `need`, or nobody.

        Returns who is still spare, and whether nobody can make the room at present.
        """
        gap = self.room.lacking_soon(need)
        if not gap or len(self.chosen) >= self.turns:
            return spare, False
        if self.exhausted & gap.keys():
            return spare, True
        victims, unfilled = smallest_set(gap, spare, self.room.bytes_for_reclaims)
        if unfilled:
            if (
                kept
            ):  # Whoever comes later lacks all that and their own need besides: no need to search again.
                self.exhausted |= unfilled.keys()
            return spare, True
        self._choose(victims, Reason.ADMISSION)
        return [holding for holding in spare if holding.kernel_id not in self.chosen], False

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
                victims, _ = smallest_set(gap, self._spare(), self.room.bytes_for_reclaims)
                self._choose(victims, Reason.ADMISSION)  # the rest may be made by another server

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
            own = policy_of(holding, self.policy)
            span = warning_span(own)
            idle, told_at = idle_for(holding, self.now), holding.warned_at if is_warned(holding) else None
            if idle < own.idle_after - span:
                self._keep(holding, Reason.RECENTLY_ACTIVE)
            elif holding.host_bytes_to_take > self.room.bytes_for_reclaims:
                self._keep(holding, Reason.HOST_MEMORY)
            elif span and told_at is None:
                self.decided[holding.kernel_id] = Warn(holding.kernel_id, Reason.IDLE)
            elif idle < own.idle_after or (told_at is not None and self.now - told_at < span):
                self._keep(holding, Reason.RECENTLY_ACTIVE)
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
        wanted = wants_back(holding) or holding.prefetch_wanted_at is not None
        return None if wanted else Reason.ALREADY_RECLAIMED
    if holding.admitted_at is not None:
        return Reason.IN_FLIGHT
    return Reason.ALREADY_RESIDENT if holding.restore_wanted_at is not None else None
