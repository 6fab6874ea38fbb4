"""What a wait is about, for whoever waits: what is missing, who holds it, and how long it may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.model import Decision, Holding, Phase, Reason, Reclaim, Snapshot, Wait
from jupyter_gpu_reclaim.core.pace import Pace

SOMEBODY_ELSE = "another user"
"""Whoever holds GPU memory outside this server: other people's kernels and programs are not named."""
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
    holders: tuple[Holder, ...] = ()  # most bytes first
    estimate: timedelta | None = None


def waits(snapshot: Snapshot, decisions: Mapping[str, Decision], pace: Pace) -> dict[str, WaitDetail]:
    """The waits among these decisions, by kernel id, first in line first."""
    holdings = {holding.kernel_id: holding for holding in snapshot.holdings}
    coming = _coming(holdings, decisions)
    details: dict[str, WaitDetail] = {}
    ahead: Counter[str] = Counter()  # bytes that come back before it, by GPU
    for wait in _in_line(decisions):
        holding = holdings[wait.kernel_id]
        needed = needed_by(holding)
        where = set(wait.missing) or set(holding.footprint)
        details[wait.kernel_id] = WaitDetail(
            since=waits_since(holding),
            position=wait.position,
            reason=wait.reason,
            needed=needed,
            missing=wait.missing,
            holders=_holders(snapshot, wait, where),
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


def _holders(snapshot: Snapshot, wait: Wait, where: set[str]) -> tuple[Holder, ...]:
    ours: Counter[str] = Counter()
    found = []
    for holding in snapshot.holdings:
        if holding.phase not in _ON_THE_GPU:
            continue
        ours.update(holding.footprint)
        held = {uuid: n for uuid, n in holding.footprint.items() if uuid in where and n}
        runs = wait.reason is not Reason.NO_PLACE or holding.running_since is not None
        if held and runs and holding.kernel_id != wait.kernel_id:
            found.append(Holder(kernel_id=holding.kernel_id, label=holding.label, footprint=held))
    arriving = {
        uuid for h in snapshot.holdings if h.phase is Phase.RESTORING for uuid in h.footprint
    }  # what of it has arrived is not known exactly
    others = {
        gpu.uuid: gpu.used_bytes - ours[gpu.uuid]
        for gpu in snapshot.gpus or ()
        if gpu.uuid in where - arriving and gpu.used_bytes > ours[gpu.uuid]
    }
    if others and wait.reason is not Reason.NO_PLACE:
        found.append(Holder(kernel_id=None, label=SOMEBODY_ELSE, footprint=others))
    return tuple(sorted(found, key=lambda h: (-sum(h.footprint.values()), h.kernel_id or "")))


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
