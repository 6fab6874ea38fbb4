"""What a wait is about, for whoever waits: what is missing, who holds it, and how long it may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from jupyter_gpu_reclaim.core.model import Decision, Holding, Phase, Reason, Reclaim, Snapshot, Wait
from jupyter_gpu_reclaim.core.pace import Pace

SOMEBODY_ELSE = "another user"
"""Whoever holds GPU memory outside this server: other people's kernels and programs are not named."""
MOST_HOLDERS = 10
_ON_THE_GPU = (Phase.RESIDENT, Phase.RECLAIMING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds memory on the GPUs where it is missing. `kernel_id` is None for whatever is not of this server."""

    kernel_id: str | None
    label: str
    footprint: Mapping[str, int]  # on these GPUs


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitDetail:
    """One kernel's wait. `needed` and `missing` are bytes per GPU; `estimate` None: it cannot be told."""

    since: datetime | None
    position: int
    reason: Reason
    needed: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    holders: tuple[Holder, ...] = ()  # most bytes first, at most `MOST_HOLDERS`
    estimate: timedelta | None = None


def waits(snapshot: Snapshot, decisions: Mapping[str, Decision], pace: Pace) -> dict[str, WaitDetail]:
    """The waits among these decisions, by kernel id, first in line first."""
    holdings = {holding.kernel_id: holding for holding in snapshot.holdings}
    coming = _coming(holdings, decisions)
    details: dict[str, WaitDetail] = {}
    line = _in_line(decisions)
    if not line:
        return details
    holders = _Holders(snapshot)
    ahead: Counter[str] = Counter()  # bytes that come back before it, by GPU
    for wait in line:
        holding = holdings[wait.kernel_id]
        needed = needed_by(holding)
        where = set(wait.missing) or set(holding.footprint)
        details[wait.kernel_id] = WaitDetail(
            since=waits_since(holding),
            position=wait.position,
            reason=wait.reason,
            needed=needed,
            missing=wait.missing,
            holders=holders.of(wait, where),
            estimate=_estimate(wait, needed, coming, ahead, pace),
        )
        ahead.update(needed)
    return details


def unmet(snapshot: Snapshot, decisions: Mapping[str, Decision]) -> tuple[dict[str, int], datetime | None]:
    """Bytes per GPU that the first in line there needs and nobody here makes room for, and since when they wait.

    One at a time: asked for all that everybody waits for, others might find it too much and give nothing.
    """
    holdings = {holding.kernel_id: holding for holding in snapshot.holdings}
    totals = {gpu.uuid: gpu.total_bytes for gpu in snapshot.gpus or ()}
    coming, asked, since = _coming(holdings, decisions), {}, []
    first_seen: set[str] = set()
    for wait in _in_line(decisions):
        holding = holdings[wait.kernel_id]
        needed = needed_by(holding)
        if wait.reason is not Reason.NO_ROOM or any(n > totals.get(uuid, 0) for uuid, n in needed.items()):
            continue
        for uuid, missing in wait.missing.items():
            if uuid not in first_seen and missing > coming[uuid]:
                asked[uuid] = needed[uuid]
                since.append(waits_since(holding) or snapshot.taken_at)
            first_seen.add(uuid)
    return asked, min(since, default=None)


def needed_by(holding: Holding) -> Mapping[str, int]:
    """Bytes per GPU that a waiting kernel waits for; {} where it only lacks a running place."""
    return holding.room_wanted if holding.phase is Phase.RESIDENT else holding.footprint


def waits_since(holding: Holding) -> datetime | None:
    """Since when it waits."""
    if holding.phase is not Phase.RESIDENT:
        return holding.restore_wanted_at
    return holding.room_wanted_at if any(holding.room_wanted.values()) else holding.place_wanted_at


def _in_line(decisions: Mapping[str, Decision]) -> list[Wait]:
    return sorted((d for d in decisions.values() if isinstance(d, Wait)), key=lambda wait: wait.position)


def _coming(holdings: Mapping[str, Holding], decisions: Mapping[str, Decision]) -> Counter[str]:
    """Bytes by GPU that reclaims under way or decided will free."""
    coming: Counter[str] = Counter()
    for name, holding in holdings.items():
        if holding.phase is Phase.RECLAIMING or isinstance(decisions[name], Reclaim):
            coming.update(holding.footprint)
    return coming


def _most_first(uuid: str, holding: Holding) -> tuple[int, str]:
    return (-holding.footprint[uuid], holding.kernel_id)


class _Holders:
    """Who holds what on each GPU, most bytes first: sorted once, for however many wait."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._here: dict[str, list[Holding]] = {}
        self._used: Counter[str] = Counter()  # by this server's kernels
        for holding in snapshot.holdings:
            if holding.phase in _ON_THE_GPU:
                self._used.update(holding.footprint)
                for uuid, held in holding.footprint.items():
                    if held:
                        self._here.setdefault(uuid, []).append(holding)
        for uuid, holdings in self._here.items():
            holdings.sort(key=partial(_most_first, uuid))
        # How much of what is being restored has arrived is not known exactly, so neither is what others hold there.
        arriving = {uuid for h in snapshot.holdings if h.phase is Phase.RESTORING for uuid in h.footprint}
        self._others = {
            gpu.uuid: gpu.used_bytes - self._used[gpu.uuid]
            for gpu in snapshot.gpus or ()
            if gpu.uuid not in arriving and gpu.used_bytes > self._used[gpu.uuid]
        }

    def of(self, wait: Wait, where: set[str]) -> tuple[Holder, ...]:
        """The `MOST_HOLDERS` that hold most on these GPUs, the kernel that waits left out."""
        for_a_place = wait.reason is Reason.NO_PLACE
        found: dict[str, Holder] = {}
        for uuid in where:
            here = (h for h in self._here.get(uuid, ()) if not for_a_place or h.running_since is not None)
            for holding in islice((h for h in here if h.kernel_id != wait.kernel_id), MOST_HOLDERS):
                held = {uuid: n for uuid, n in holding.footprint.items() if uuid in where and n}
                found[holding.kernel_id] = Holder(
                    kernel_id=holding.kernel_id, label=holding.label, footprint=held
                )
        holders = list(found.values())
        others = {uuid: n for uuid, n in self._others.items() if uuid in where}
        if others and not for_a_place:
            holders.append(Holder(kernel_id=None, label=SOMEBODY_ELSE, footprint=others))
        holders.sort(key=lambda h: (-sum(h.footprint.values()), h.kernel_id or ""))
        return tuple(holders[:MOST_HOLDERS])


def _estimate(
    wait: Wait, needed: Mapping[str, int], coming: Mapping[str, int], ahead: Mapping[str, int], pace: Pace
) -> timedelta | None:
    """Time for what makes room to leave, and for whoever is first and itself to arrive; None unless all is known."""
    if wait.reason not in (Reason.NO_ROOM, Reason.QUEUED) or not pace.offload or not pace.onload:
        return None
    if not wait.missing or any(n > coming[uuid] for uuid, n in wait.missing.items()):
        return None  # somebody has to stop first, and nobody knows when
    leaving = max(coming[uuid] for uuid in wait.missing)
    arriving = _most(needed) + max(ahead[uuid] for uuid in wait.missing)
    return timedelta(seconds=leaving / pace.offload + arriving / pace.onload)


def _most(amounts: Mapping[str, int]) -> int:
    return max(amounts.values(), default=0)
