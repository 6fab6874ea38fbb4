"""May this one kernel be reclaimed, and when will it be? Questions about a single holding, others left aside."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

from jupyter_gpu_reclaim.core.model import Holding, Phase, Policy, Reason

NO_LONGER: Mapping[str, timedelta] = MappingProxyType({})
"""Of `residence`: no GPU on which whoever came back stays for longer than the cooldown."""


def barrier(
    holding: Holding,
    policy: Policy,
    now: datetime,
    observed: Collection[str] | None,
    residence: Mapping[str, timedelta] = NO_LONGER,
) -> Reason | None:
    """What forbids reclaiming this resident kernel now, or None. `observed` are the GPUs seen; None: none could be.

    A person's wish (`reclaim_wanted_at`) goes over the pin, the cooldown, the rest after a failure and the smallest
    size, since whoever asks for the reclaim has changed their mind about the pin. It never goes over work, over the
    unknown, or over what no mechanism can move. How long a kernel has been idle is not judged here (see `idle_for`).
    `residence` is what `track_residence` returned: how long a kernel stays on a GPU after a restore.
    """
    return (
        _cannot_be_moved(holding, policy)
        or _at_work_or_unknown(holding)
        or _gpu_unseen(holding, observed)
        or (None if holding.reclaim_wanted_at is not None else _resting(holding, policy, now, residence))
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


def spare_for(holding: Holding, now: datetime) -> timedelta:
    """As `idle_for`, where somebody needs room: a restore that came early, for nobody yet, does not count as use."""
    if holding.restored_early and holding.last_active_at is not None:
        return now - holding.last_active_at
    return idle_for(holding, now)


def spare_after(policy: Policy) -> timedelta:
    """How long a kernel must have been idle, in the sense of `spare_for`, to give way to somebody who needs room."""
    return min(policy.pressure_idle_after, policy.idle_after)


def warning_span(policy: Policy) -> timedelta:
    """Time from the warning to the reclaim for idleness, at most half of `idle_after`; zero: nobody is warned.

    In a dry run nothing will happen, so nobody is told that it will.
    """
    return timedelta(0) if policy.mode == "dry_run" else min(policy.warn_before, policy.idle_after / 2)


def is_warned(holding: Holding) -> bool:
    """Whether a warning stands: given since the kernel was last used, and not answered by a pin."""
    at, since = holding.warned_at, idle_since(holding)
    if at is None or since is None or at < since:
        return False
    return holding.pinned_until is None or holding.pinned_until <= at


def reclaim_due_at(
    holding: Holding, policy: Policy, residence: Mapping[str, timedelta] = NO_LONGER
) -> datetime | None:
    """When the kernel will be reclaimed for being idle if nothing changes; None: not by time alone.

    Pressure, or somebody who waits for room, may bring it forward to `pressure_idle_after`; a lack of host memory or
    of a turn may put it off. A warning not yet given is taken to be given as soon as it may. In mode "dry_run" it is
    when the kernel would be reclaimed.
    """
    since = idle_since(holding)
    if holding.phase is not Phase.RESIDENT or since is None:
        return None
    if _cannot_be_moved(holding, policy) or _at_work_or_unknown(holding) or _too_small(holding, policy):
        return None
    span = warning_span(policy)
    ready = max(since + policy.idle_after - span, barrier_falls_at(holding, policy, residence) or since)
    warned_at = holding.warned_at if is_warned(holding) else None
    return max(since + policy.idle_after, ready, (warned_at or ready) + span)


def barrier_falls_at(
    holding: Holding, policy: Policy, residence: Mapping[str, timedelta] = NO_LONGER
) -> datetime | None:
    """When every rest that `barrier` knows (pin, cooldown, stay, failure) is over; None: there is none."""
    rested_at = _rested_at(holding, max(policy.cooldown, _stay(holding, residence)))
    rests = (holding.pinned_until, holding.retry_at, rested_at)
    return max((rest for rest in rests if rest is not None), default=None)


def _cannot_be_moved(holding: Holding, policy: Policy) -> Reason | None:
    if not holding.managed:
        return Reason.UNMANAGED
    if holding.footprint_bytes == 0:
        return Reason.NO_GPU_MEMORY
    if holding.mechanism is None:
        # While its first cell runs, what could move it has not been looked for: that is not why it stays.
        return Reason.UNSUPPORTED if holding.running_since is None else Reason.RUNNING
    if policy.mode == "off":
        return Reason.SWITCHED_OFF
    return None if holding.distrusted is None else Reason.DISTRUSTED


def _at_work_or_unknown(holding: Holding) -> Reason | None:
    if holding.running_since is not None or holding.waiting or holding.place_wanted_at is not None:
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


def _resting(
    holding: Holding, policy: Policy, now: datetime, residence: Mapping[str, timedelta]
) -> Reason | None:
    if holding.pinned_until is not None and holding.pinned_until > now:
        return Reason.PINNED
    if (rested_at := _rested_at(holding, policy.cooldown)) is not None and rested_at > now:
        return Reason.COOLDOWN
    if (rested_at := _rested_at(holding, _stay(holding, residence))) is not None and rested_at > now:
        return Reason.THRASHING
    if holding.retry_at is not None and holding.retry_at > now:
        return Reason.RETRY_LATER
    return _too_small(holding, policy)


def _rested_at(holding: Holding, rest: timedelta) -> datetime | None:
    """When a rest of this length after the restore is over. What came back early, for nobody yet, has none."""
    return None if holding.phase_since is None or holding.restored_early else holding.phase_since + rest


def _stay(holding: Holding, residence: Mapping[str, timedelta]) -> timedelta:
    if not residence:
        return timedelta(0)
    return max((residence.get(uuid, timedelta(0)) for uuid in holding.footprint), default=timedelta(0))


def _too_small(holding: Holding, policy: Policy) -> Reason | None:
    return Reason.TOO_SMALL if holding.footprint_bytes < policy.min_reclaim_bytes else None
