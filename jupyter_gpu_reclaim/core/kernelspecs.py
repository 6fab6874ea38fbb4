"""Which policy holds for one kernel: that of the first entry for its kernelspec, else its server's."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from jupyter_gpu_reclaim.core.model import Holding, Policy


def policy_of(holding: Holding, policy: Policy) -> Policy:
    """The policy for this kernel of a server that has `policy`. What concerns a whole GPU stays with that."""
    return of_kernelspec(holding.kernel_name, policy) if policy.by_kernelspec else policy


def of_kernelspec(name: str, policy: Policy) -> Policy:
    """As `policy_of`, for any kernel of this kernelspec."""
    return next((one.policy for one in policy.by_kernelspec if is_named(name, one.kernelspecs)), policy)


def is_named(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of these patterns fits; `*` in it stands for any text."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
