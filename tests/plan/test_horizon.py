"""Between two instants at which time alone may bring an act, it brings none: a replay need not ask in between."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from worlds import MINUTE, NOW, away, gpu, histories, idle_kernel, policies, snapshots, stays, world

from jupyter_gpu_reclaim.core.horizon import next_change
from jupyter_gpu_reclaim.core.model import Keep, KernelspecPolicy, Policy, Reason, Reclaim, Snapshot, Wait
from jupyter_gpu_reclaim.core.policy import decide


def acts(snapshot: Snapshot, at, policy, pressure, residence) -> list:
    """What `decide()` would do, and who waits; why somebody is kept may change with time, and costs nobody anything."""
    decisions = decide(replace(snapshot, taken_at=at), policy, pressure, {}, residence)
    return [
        (d.kernel_id, "waits") if isinstance(d, Wait) else d for d in decisions if not isinstance(d, Keep)
    ]


@st.composite
def plain_snapshots(draw: st.DrawFn) -> Snapshot:
    """Kernels that are idle, warned, rested or not, and perhaps one that waits for more than there is."""
    minutes = st.sampled_from([0, 0.5, 1, 3, 10, 19, 30]).map(lambda n: NOW - n * MINUTE)
    idle = [
        idle_kernel(
            f"k{number}", last_active_at=draw(minutes), phase_since=draw(st.none() | minutes),
            warned_at=draw(st.none() | minutes), restored_early=draw(st.booleans()),
            kernel_name=draw(st.sampled_from(["", "spec"])),
        )
        for number in range(draw(st.integers(1, 3)))
    ]  # fmt: skip
    waiting = [away("w", gib=4)] if draw(st.booleans()) else []
    return world(*idle, *waiting, gpus=(gpu(free=0),))


by_kernelspec = st.builds(
    lambda policy, other: replace(
        policy,
        by_kernelspec=(KernelspecPolicy(kernelspecs=("spec",), policy=replace(other, mode=policy.mode)),),
    ),
    policies,
    policies,
)


@settings(max_examples=250, deadline=None)
@given(plain_snapshots() | snapshots(), policies | by_kernelspec, histories, stays)
def test_nothing_is_done_before_the_horizon(snapshot, policy, pressure, residence):
    """At any instant before the one that it names, the acts are those of now."""
    now = snapshot.taken_at
    change = next_change(
        snapshot.holdings, policy, now, pressure, residence, somebody_waits=bool(snapshot.outside_pressure)
    )
    first = acts(snapshot, now, policy, pressure, residence)
    later = [now + n * MINUTE for n in (0.5, 1, 1.5, 2, 5, 10, 15, 19, 20, 21, 30, 60, 200)]
    if change is not None:
        later = [at for at in later if at < change] + [change - timedelta(microseconds=1)]
    for at in later:
        assert acts(snapshot, at, policy, pressure, residence) == first


def test_a_late_warning_puts_the_reclaim_off() -> None:
    """Warned only when long idle, a kernel is reclaimed once the warning's time is over, and the horizon is there."""
    kernel, policy = idle_kernel(minutes=40, warned_at=NOW), Policy()
    assert next_change([kernel], policy, NOW) == NOW + policy.warn_before
    assert acts(world(kernel), NOW, policy, {}, {}) == []
    assert acts(world(kernel), NOW + policy.warn_before, policy, {}, {}) == [Reclaim("a", Reason.IDLE)]
