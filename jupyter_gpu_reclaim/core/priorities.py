"""Which kernels give way first, as the policy says: a pattern of the label, or a kernelspec's name, for each."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from jupyter_gpu_reclaim.core.kernelspecs import policy_of
from jupyter_gpu_reclaim.core.model import Holding, Policy, Snapshot


def prioritised(snapshot: Snapshot, policy: Policy) -> Snapshot:
    """The snapshot with each holding given its priority: that of the first entry that fits, else 0, and its rule's."""
    if not policy.priorities and not policy.by_kernelspec:
        return snapshot
    return replace(
        snapshot, holdings=tuple(replace(h, priority=priority_of(h, policy)) for h in snapshot.holdings)
    )


def priority_of(holding: Holding, policy: Policy) -> int:
    """See `prioritised`. In a pattern `*` stands for any text, slashes too."""
    by_rule = policy_of(holding, policy).rule_priority
    for pattern, priority in policy.priorities.items():
        if pattern == holding.kernel_name or fnmatchcase(holding.label, pattern):
            return by_rule + priority
    return by_rule
