"""How many GPUs a trace needs, by what rule, for waits that are short enough; over several traces, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from jupyter_gpu_reclaim.core.model import Policy
from jupyter_gpu_reclaim.plan.baselines import MINUTE, PoolTally, Rule, pool, rules
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.replay import replay
from jupyter_gpu_reclaim.plan.tally import Tally
from jupyter_gpu_reclaim.plan.trace import Trace

_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Of Student's t for 95 % within, by degrees of freedom from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Waits are short enough if this share of all cells waits less than so long."""

    quantile: float = 0.95
    seconds: float = 10.0

    def met(self, tally: Tally | PoolTally) -> bool:
        """Whether they are."""
        return tally.wait_seconds(self.quantile) < self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a trace is replayed with."""

    policy: Policy
    machine: Machine
    target: Target
    tick_seconds: float = 5.0
    cull_after: int = 60 * MINUTE

    def rules(self) -> list[Rule]:
        """The baselines to hold it against; the limit comes last."""
        return rules(self.machine, self.cull_after, self.policy.max_running_per_gpu)

    def replay(self, trace: Trace, gpus: int) -> Tally:
        """By the product."""
        return replay(trace, gpus, self.policy, self.machine, self.tick_seconds)

    def pool(self, trace: Trace, gpus: int, rule: Rule) -> PoolTally:
        """By a baseline."""
        return pool(trace, gpus, self.machine.gpu_bytes, rule)


def fewest(meets: Callable[[int], bool], least: int, most: int) -> int | None:
    """The fewest GPUs that meet the target, by bisection; None if not even `most` do.

    More GPUs are taken to wait no longer. Of kernels placed once and for all that holds but nearly: by luck of the
    placement a GPU fewer may do, too.
    """
    if not meets(most):
        return None
    while least < most:
        middle = (least + most) // 2
        if meets(middle):
            most = middle
        else:
            least = middle + 1
    return most


@dataclass(frozen=True, slots=True)
class Sizes:
    """GPUs needed: by the product, and by each baseline in the order of `Ask.rules()`. None: no number meets it."""

    product: int | None
    baselines: tuple[int | None, ...]


def sizes(trace: Trace, ask: Ask) -> Sizes:
    """How many GPUs the trace needs by each rule, never more than it has kernels."""
    found = [needed_by(rule, trace, ask) for rule in ask.rules()]
    return Sizes(needed_by_product(trace, ask, found[-1]), tuple(found))


def needed_by(rule: Rule, trace: Trace, ask: Ask) -> int | None:
    """GPUs that a baseline needs."""
    return fewest(lambda gpus: ask.target.met(ask.pool(trace, gpus, rule)), 1, _most(trace))


def needed_by_product(trace: Trace, ask: Ask, limit: int | None) -> int | None:
    """GPUs that the product needs; below the limit nobody looks."""
    return fewest(lambda gpus: ask.target.met(ask.replay(trace, gpus)), limit or 1, _most(trace))


def _most(trace: Trace) -> int:
    return max(1, sum(1 for kernel in trace.kernels if kernel.rests))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of the interval that holds it with 95 % (Student's t); of up to ten values."""
    if len(values) < 2:
        return mean(values), 0.0
    return mean(values), _STUDENT[len(values) - 2] * stdev(values) / sqrt(len(values))
