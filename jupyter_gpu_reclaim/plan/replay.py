"""A fleet: kernels are given to GPUs once, each GPU has a brain of its own, and their tallies add up.

No decision about one GPU depends on another while kernels use one GPU each, so that a fleet costs as much as its GPUs
one after the other. Kernels that use several GPUs are not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence

from jupyter_gpu_reclaim.core.model import Policy, Transition
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.gpu_replay import GpuReplay, Witness
from jupyter_gpu_reclaim.plan.homes import placed
from jupyter_gpu_reclaim.plan.outside import Outside
from jupyter_gpu_reclaim.plan.tally import Tally
from jupyter_gpu_reclaim.plan.trace import Trace


def replay(
    trace: Trace,
    gpus: int,
    policy: Policy,
    machine: Machine,
    tick_seconds: float = 5.0,
    witness: Witness | None = None,
    rows: list[Transition] | None = None,
    begin_reclaimed: bool = False,
    before: Sequence[Transition] = (),
) -> Tally:
    """What this policy brings on so many GPUs. `witness` sees each round, `rows` (if given) takes the log's rows.

    Kernels begin with nothing, or, with `begin_reclaimed`, with what their first cell holds in host memory. `before`
    are moves done before the beginning, as rows of the log: by them it is judged how much is moved.
    """
    total = Tally()
    for number, kernels in enumerate(placed(trace.kernels, gpus, policy.max_running_per_gpu)):
        uuid = f"GPU-{number:04d}"
        one = GpuReplay(
            uuid,
            kernels,
            trace.span,
            policy,
            machine,
            tick_seconds,
            witness,
            rows,
            Outside(begin_reclaimed=begin_reclaimed, before=[row for row in before if uuid in row.footprint]),
        )
        total.add(one.run())
    return total
