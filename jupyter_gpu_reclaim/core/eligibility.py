"""May this one kernel be reclaimed, and when will it be? Questions about a single holding, others left aside."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.model import Holding, Phase, Policy, Reason


def barrier(
    holding: Holding, policy: Policy, now: datetime, observed: Collection[str] | None
) -> Reason | None:
    """What forbids reclaiming this resident kernel now, or None. `observed` are the GPUs seen; None: none could be.

    A person's wish (`reclaim_wanted_at`) goes over the pin, the cooldown, the rest after a failure and the smallest
    size, since whoever asks for the reclaim has changed their mind about the pin. It never goes over work, over the
    unknown, or over what no mechanism can move. How long a kernel has been idle is not judged here (see `idle_for`).
    """
    return (
        _cannot_be_moved(holding, policy)
        or _at_work_or_unknown(holding)
        or _gpu_unseen(holding, observed)
        or (None if holding.reclaim_wanted_at is not None else _resting(holding, policy, now))
    )


def idle_since(holding: Holding) -> datetime | None:
    """Since when the kernel is idle: the end of the last user code, or its restore if that came later. None: unknown.

    A restore counts because whoever asked for it is about to use the kernel.
    """
    if holding.last_active_at is None or holding.phase_since is None:
        return holding.last_active_at
    return max(holding.last_active_at, holding.phase_since)


def idle_for(holding: Holding, now: datetime) -> timedelta:
    """Time since `idle_since`; zero while that is unknown, since unknown never counts as idle."""
    since = idle_since(holding)
    return timedelta(0) if since is None else now - since


def reclaim_due_at(holding: Holding, policy: Policy) -> datetime | None:
    """When the kernel will be reclaimed for being idle if nothing changes; None: not by time alone.

    Pressure, or somebody who waits for room, may bring it forward to `pressure_idle_after`; a lack of host memory or
    of a turn may put it off. In mode "dry_run" it is when the kernel would be reclaimed.
    """
    since = idle_since(holding)
    if holding.phase is not Phase.RESIDENT or since is None:
        return None
    if _cannot_be_moved(holding, policy) or _at_work_or_unknown(holding) or _too_small(holding, policy):
        return None
    rests = [holding.pinned_until, holding.retry_at]
    if holding.phase_since is not None:
        rests.append(holding.phase_since + policy.cooldown)
    return max([since + policy.idle_after, *(rest for rest in rests if rest is not None)])


def _cannot_be_moved(holding: Holding, policy: Policy) -> Reason | None:
    if not holding.managed:
        return Reason.UNMANAGED
    if holding.footprint_bytes == 0:
        return Reason.NO_GPU_MEMORY
    if holding.mechanism is None:
        return Reason.UNSUPPORTED
    if policy.mode == "off":
        return Reason.SWITCHED_OFF
    return None if holding.distrusted is None else Reason.DISTRUSTED


def _at_work_or_unknown(holding: Holding) -> Reason | None:
    if holding.running_since is not None or holding.waiting:
        return Reason.RUNNING
    if holding.background_work:
        return Reason.BACKGROUND_WORK
    if holding.gpu_busy:
        return Reason.GPU_BUSY
    if holding.last_active_at is None:
        return Reason.ACTIVITY_UNKNOWN
    if holding.background_work is None:
        return Reason.BACKGROUND_UNKNOWN
    if holding.gpu_busy is None:
        return Reason.GPU_UNKNOWN
    return None


def _gpu_unseen(holding: Holding, observed: Collection[str] | None) -> Reason | None:
    if observed is None or any(uuid not in observed for uuid in holding.footprint):
        return Reason.GPU_UNKNOWN
    return None


def _resting(holding: Holding, policy: Policy, now: datetime) -> Reason | None:
    if holding.pinned_until is not None and holding.pinned_until > now:
        return Reason.PINNED
    if holding.phase_since is not None and now - holding.phase_since < policy.cooldown:
        return Reason.COOLDOWN
    if holding.retry_at is not None and holding.retry_at > now:
        return Reason.RETRY_LATER
    return _too_small(holding, policy)


def _too_small(holding: Holding, policy: Policy) -> Reason | None:
    return Reason.TOO_SMALL if holding.footprint_bytes < policy.min_reclaim_bytes else None
