"""Kernels of one server that have different policies, by their kernelspecs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from worlds import NOW, away, gpu, idle_kernel, world

from jupyter_gpu_reclaim.core.kernelspecs import policy_of
from jupyter_gpu_reclaim.core.model import Keep, KernelspecPolicy, Policy, Reason, Reclaim
from jupyter_gpu_reclaim.core.policy import decide
from jupyter_gpu_reclaim.core.priorities import prioritised

HOUR = timedelta(hours=1)
POLICY = Policy(warn_before=timedelta(0))
PATIENT = KernelspecPolicy(
    kernelspecs=("slow*",), policy=replace(POLICY, idle_after=2 * HOUR, pressure_idle_after=HOUR)
)
OFF = KernelspecPolicy(kernelspecs=("off",), policy=replace(POLICY, mode="off"))


def test_each_kernel_has_the_policy_of_its_kernelspec():
    """Of two kernels alike but for their spec one is reclaimed, the other waits for its own time; a third is off."""
    policy = replace(POLICY, by_kernelspec=(PATIENT, OFF))
    plain, slow, off = (idle_kernel(name, kernel_name=name) for name in ("python3", "slow-1", "off"))
    assert decide(world(plain, slow, off), policy, {}) == (
        Reclaim("python3", Reason.IDLE),
        Keep("slow-1", Reason.RECENTLY_ACTIVE),
        Keep("off", Reason.SWITCHED_OFF),
    )
    late = replace(slow, last_active_at=NOW - 2 * HOUR)
    assert decide(world(late), policy, {}) == (Reclaim("slow-1", Reason.IDLE),)


def test_who_gives_way_is_asked_by_its_own_patience_and_priority():
    """For a cell that waits, who asks for an idle hour gives way only after it, and a rule's priority counts."""
    first = replace(POLICY, rule_priority=-1)
    policy = replace(POLICY, by_kernelspec=(PATIENT, KernelspecPolicy(kernelspecs=("first",), policy=first)))
    waiting, seen = away("w", gib=4), (gpu(free=0),)
    slow = idle_kernel("slow", minutes=59, kernel_name="slow")
    plain, low = (idle_kernel(name, minutes=5, kernel_name=name) for name in ("plain", "first"))
    found = decide(world(waiting, slow, plain, gpus=seen), policy, {})
    assert found[1:] == (Keep("slow", Reason.RECENTLY_ACTIVE), Reclaim("plain", Reason.ADMISSION))
    ranked = prioritised(
        world(waiting, replace(plain, last_active_at=NOW - HOUR / 4), low, gpus=seen), policy
    )
    assert decide(ranked, policy, {})[1:] == (
        Keep("plain", Reason.RECENTLY_ACTIVE),
        Reclaim("first", Reason.ADMISSION),
    )


def test_the_first_entry_that_fits_a_kernel_holds_for_it():
    """Entries are tried in their order; a kernel that none fits has its server's policy."""
    both = replace(
        POLICY, by_kernelspec=(OFF, PATIENT, KernelspecPolicy(kernelspecs=("o*", "x"), policy=POLICY))
    )
    names = {"off": OFF.policy, "slow": PATIENT.policy, "other": POLICY, "x": POLICY, "python3": both}
    assert {name: policy_of(idle_kernel(kernel_name=name), both) for name in names} == names
    assert policy_of(idle_kernel(kernel_name="off"), POLICY) is POLICY
