"""Who may go ahead: one line of everybody that waits for GPU memory or for a running place.

The rules:

- **The line.** First running code that waits to allocate: it holds its memory and its place and can be moved nowhere,
  so whoever waits for these comes sooner by its going ahead. Then user code at the gate, for its data or for a place,
  in order of arrival. Then what persons wished for.
- **All or nothing.** A kernel goes ahead when everything it needs is there on all its GPUs at once. Until then it
  holds nothing, so two kernels that need the same two GPUs cannot block each other.
- **Reservations.** One that waits for room reserves all it needs from those behind it, so none starves. It keeps no
  place meanwhile, or the code whose end makes its room might wait for that place. One that lacks only a place keeps
  room and place. One that could not fit on an empty GPU reserves nothing; nor does running code for which nobody can
  make room, since that wait ends by itself.
- **Overtaking.** While nobody can be reclaimed for a waiting restore, holding back another does not make it come any
  sooner. Then restores behind it that need fewer bytes and fit in what is free go ahead of it, smallest first; but no
  kernel is overtaken more than `OVERTAKEN_AT_MOST` times in one wait. Nobody is reclaimed for one that overtakes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from jupyter_gpu_reclaim.core.model import (
    Admit,
    Decision,
    Holding,
    Keep,
    Phase,
    Policy,
    Reason,
    Restore,
    Snapshot,
    Wait,
)
from jupyter_gpu_reclaim.core.places import Places, places_of
from jupyter_gpu_reclaim.core.room import Room

OVERTAKEN_AT_MOST = 3

_ALLOCATING, _AT_THE_GATE, _WISHED_FOR = range(3)


@dataclass(slots=True, kw_only=True, eq=False)
class Waiter:
    """One kernel in the line, and how it fares in this round."""

    holding: Holding
    rank: int
    at: datetime
    need: Mapping[str, int]  # bytes per GPU
    places: tuple[str, ...] = ()  # GPUs on which it needs a running place
    goes: Restore | Admit  # the decision if it may
    reserves: bool = False
    stuck: bool = False  # nobody can be reclaimed for it

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.need.values())

    def order(self) -> tuple:
        """Its place in the line."""
        return (self.rank, self.at, self.holding.kernel_id)


def wants_back(holding: Holding) -> bool:
    """Whether user code or a person waits for the kernel's restore."""
    return bool(holding.waiting) or holding.restore_wanted_at is not None


def waits_inside(holding: Holding) -> bool:
    """Whether code of a resident kernel waits for room or for a running place."""
    return any(holding.room_wanted.values()) or holding.place_wanted_at is not None


def line(holdings: Iterable[Holding], policy: Policy, now: datetime) -> list[Waiter]:
    """Those of these kernels that wait, in order."""
    return sorted(
        (waiter for holding in holdings if (waiter := _waiter(holding, policy, now))), key=Waiter.order
    )


def _waiter(holding: Holding, policy: Policy, now: datetime) -> Waiter | None:
    name, limited = holding.kernel_id, policy.max_running_per_gpu > 0
    if holding.phase is Phase.RECLAIMED and wants_back(holding):
        code = holding.waiting > 0
        return Waiter(
            holding=holding,
            rank=_AT_THE_GATE if code else _WISHED_FOR,
            at=holding.restore_wanted_at or now,
            need=holding.footprint,
            places=places_of(holding) if code and limited else (),
            goes=Restore(name, Reason.USER_CODE if code else Reason.REQUESTED),
        )
    if holding.phase is not Phase.RESIDENT or holding.admitted_at is not None:
        return None
    if any(holding.room_wanted.values()):
        at = holding.room_wanted_at or now
        goes = Admit(name, Reason.ROOM)
        return Waiter(holding=holding, rank=_ALLOCATING, at=at, need=holding.room_wanted, goes=goes)
    if holding.place_wanted_at is not None:
        return Waiter(
            holding=holding,
            rank=_AT_THE_GATE,
            at=holding.place_wanted_at,
            need={},
            # What runs in it already has taken its place, for all of it.
            places=places_of(holding) if limited and holding.running_since is None else (),
            goes=Admit(name, Reason.PLACE),
        )
    return None


class Admission:
    """One round over the line.

    `make_room(need, kept)` chooses reclaims that make room for `need`, which is kept for it or not until then, and
    says whether nobody can.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        room: Room,
        places: Places,
        overtaken: Mapping[str, int],
        make_room: Callable[[Mapping[str, int], bool], bool],
    ) -> None:
        self._now = snapshot.taken_at
        self._observed = frozenset(gpu.uuid for gpu in snapshot.gpus or ())
        self._room = room
        self._places = places
        self._overtaken = Counter(overtaken)
        self._make_room = make_room
        self._waiting: list[Waiter] = []
        self._decided: dict[str, Decision] = {}

    def decisions(self, waiters: list[Waiter]) -> dict[str, Decision]:
        """`Restore`, `Admit` or `Wait` for each, by kernel id. Room and places are left as these leave them."""
        for waiter in waiters:
            if self._why_not(waiter) is None:
                self._go(waiter, waiter.goes)
            else:
                self._waiting.append(waiter)
                self._hold(waiter)
        self._overtake()
        self._number()
        return self._decided

    def _go(self, waiter: Waiter, decision: Restore | Admit) -> None:
        self._decided[decision.kernel_id] = decision
        self._room.take(waiter.need)
        self._places.take(waiter.places)

    def _why_not(self, waiter: Waiter) -> Reason | None:
        retry_at = waiter.holding.retry_at
        if isinstance(waiter.goes, Restore) and retry_at is not None and retry_at > self._now:
            return Reason.RETRY_LATER
        seen = self._sees(waiter)
        # Running out of memory blindly loses nothing; waiting for a sight that may never come hangs a cell.
        if not seen and waiter.rank == _WISHED_FOR:
            return Reason.GPU_UNKNOWN
        if seen and self._room.lacking_now(waiter.need):
            crowded = any(n > self._room.free[uuid] for uuid, n in waiter.need.items())
            return Reason.NO_ROOM if crowded else Reason.QUEUED
        return Reason.NO_PLACE if self._places.lacks(waiter.places) else None

    def _hold(self, waiter: Waiter) -> None:
        if not self._could_ever_fit(waiter):
            return
        lacks_room = bool(self._room.lacking_now(waiter.need))
        allocating = waiter.rank == _ALLOCATING
        waiter.stuck = self._make_room(waiter.need, not allocating)
        waiter.reserves = not (waiter.stuck and allocating)
        if waiter.reserves:
            self._room.reserve(waiter.need)
        if not lacks_room:
            self._places.take(waiter.places)

    def _sees(self, waiter: Waiter) -> bool:
        return self._observed.issuperset(waiter.need)

    def _could_ever_fit(self, waiter: Waiter) -> bool:
        held = waiter.holding.footprint if waiter.rank == _ALLOCATING else {}
        return self._sees(waiter) and all(
            n + held.get(uuid, 0) <= self._room.total[uuid] for uuid, n in waiter.need.items()
        )

    def _overtake(self) -> None:
        behind = [w for w in self._waiting[1:] if w.rank == _AT_THE_GATE and w.reserves]
        for waiter in sorted(behind, key=lambda w: (w.size, w.order())):
            fits = all(n <= self._room.free[uuid] for uuid, n in waiter.need.items())
            if not fits or self._places.lacks(waiter.places) or self._rests(waiter):
                continue
            passed, kept = self._ahead_of(waiter)
            if passed and all(n + kept[uuid] <= self._room.free[uuid] for uuid, n in waiter.need.items()):
                self._waiting.remove(waiter)
                self._overtaken.update(passed)
                self._go(waiter, replace(waiter.goes, passed=tuple(passed)))  # type: ignore[arg-type]  # mypy takes no union

    def _ahead_of(self, waiter: Waiter) -> tuple[list[str], Counter[str]]:
        """Whom it would overtake, and the bytes per GPU that stay kept for the others ahead of it."""
        passed: list[str] = []
        kept: Counter[str] = Counter()
        for other in self._waiting[: self._waiting.index(waiter)]:
            name = other.holding.kernel_id
            if not other.reserves or not other.need.keys() & waiter.need.keys():
                continue
            if other.stuck and other.size > waiter.size and self._overtaken[name] < OVERTAKEN_AT_MOST:
                passed.append(name)
            else:
                kept.update(other.need)
        return passed, kept

    def _rests(self, waiter: Waiter) -> bool:
        return waiter.holding.retry_at is not None and waiter.holding.retry_at > self._now

    def _number(self) -> None:
        """Say to each that waits why, its position and what it lacks, now that nobody else goes ahead."""
        self._room.reserved.update(dict.fromkeys(self._room.reserved, 0))
        for position, waiter in enumerate(self._waiting, start=1):
            name, seen = waiter.holding.kernel_id, self._sees(waiter)
            missing = self._room.lacking_now(waiter.need) if seen else {}
            # What it waits for may be there by now; then it is others' turn that it waits for.
            reason = self._why_not(waiter) or Reason.QUEUED
            self._decided[name] = Wait(name, reason, position, missing)
            if waiter.reserves:
                self._room.reserve(waiter.need)


def track_overtaken(decisions: Iterable[Decision], overtaken: Mapping[str, int]) -> dict[str, int]:
    """{kernel id: how often it was overtaken in this wait}, given what the last round returned.

    It counts on while the kernel's restore is tried, and is forgotten when the kernel waits no more.
    """
    decisions = tuple(decisions)
    passed = Counter(n for d in decisions if isinstance(d, Restore) for n in d.passed)
    return {
        d.kernel_id: times
        for d in decisions
        if isinstance(d, Wait | Restore) or d == Keep(d.kernel_id, Reason.IN_FLIGHT)
        if (times := overtaken.get(d.kernel_id, 0) + passed[d.kernel_id])
    }
