"""When will `decide()` say something else although nothing has happened? So that a replay need not ask in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.admission import waits_inside, wants_back
from jupyter_gpu_reclaim.core.eligibility import (
    NO_LONGER,
    barrier_falls_at,
    idle_since,
    is_warned,
    spare_after,
    warning_span,
)
from jupyter_gpu_reclaim.core.kernelspecs import policy_of
from jupyter_gpu_reclaim.core.model import Holding, Phase, Policy

NEVER: Mapping[str, datetime] = {}


def next_change(
    holdings: Iterable[Holding],
    policy: Policy,
    now: datetime,
    pressure_since: Mapping[str, datetime] = NEVER,
    residence: Mapping[str, timedelta] = NO_LONGER,
    somebody_waits: bool = False,
) -> datetime | None:
    """The first instant after `now` at which time alone may bring another act; None: only an event can.

    Until then `decide()` warns, reclaims, restores and admits as it does now, as long as its other arguments stay. It
    may be too early, never too late. `somebody_waits` says that room is wanted from outside these holdings.
    """
    holdings = tuple(holdings)
    wanted = somebody_waits or policy.headroom_bytes > 0 or any(map(_waits, holdings))
    instants = [start + policy.pressure_grace for start in pressure_since.values()]
    for holding in holdings:
        if holding.phase is Phase.RESIDENT:
            instants += _of_resident(holding, policy_of(holding, policy), residence, wanted)
        elif holding.retry_at is not None:
            instants.append(holding.retry_at)
    return min((at for at in instants if at > now), default=None)


def _waits(holding: Holding) -> bool:
    away = holding.phase is Phase.RECLAIMED and wants_back(holding)
    return away or (holding.phase is Phase.RESIDENT and waits_inside(holding))


def _of_resident(
    holding: Holding, policy: Policy, residence: Mapping[str, timedelta], wanted: bool
) -> list[datetime]:
    since = idle_since(holding)
    if since is None or holding.last_active_at is None or holding.running_since is not None:
        return []
    ready = barrier_falls_at(holding, policy, residence) or since
    told_at = max(ready, since + policy.idle_after - warning_span(policy))
    instants = [told_at, max(ready, since + policy.idle_after)]
    if holding.warned_at is not None and is_warned(holding):
        instants.append(max(instants[1], holding.warned_at + warning_span(policy)))
    if wanted:
        spare = holding.last_active_at if holding.restored_early else since
        instants.append(max(ready, spare + spare_after(policy)))
    if holding.reclaim_wanted_at is not None:
        instants.append(ready)
    return instants
