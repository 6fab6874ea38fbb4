"""Between two instants at which time alone may bring an act, it brings none: a replay need not ask in between."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from worlds import histories, policies, snapshots, stays

from jupyter_gpu_reclaim.core.horizon import next_change
from jupyter_gpu_reclaim.core.model import Keep, Snapshot, Wait
from jupyter_gpu_reclaim.core.policy import decide


def acts(snapshot: Snapshot, at, policy, pressure, residence) -> list:
    """What `decide()` would do, and who waits; why somebody is kept may change with time, and costs nobody anything."""
    decisions = decide(replace(snapshot, taken_at=at), policy, pressure, {}, residence)
    return [
        (d.kernel_id, "waits") if isinstance(d, Wait) else d for d in decisions if not isinstance(d, Keep)
    ]


@settings(max_examples=200, deadline=None)
@given(snapshots(), policies, histories, stays, st.floats(0, 1, exclude_max=True))
def test_nothing_is_done_before_the_horizon(snapshot, policy, pressure, residence, share):
    """At any instant before the one that it names, the acts are those of now."""
    now = snapshot.taken_at
    change = next_change(
        snapshot.holdings, policy, now, pressure, residence, somebody_waits=bool(snapshot.outside_pressure)
    )
    span = timedelta(days=2) if change is None else change - now
    later = now + span * share
    assert acts(snapshot, later, policy, pressure, residence) == acts(
        snapshot, now, policy, pressure, residence
    )
