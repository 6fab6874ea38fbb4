"""What the reconciler's tests share: a world with a reconciler in it, and what must hold whatever happened."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from fakes import World

from jupyter_gpu_reclaim.core.model import Phase, Policy
from jupyter_gpu_reclaim.core.phase import advance
from jupyter_gpu_reclaim.reconciler import Reconciler

POLICY = Policy(warn_before=timedelta(0))
HOUR = timedelta(hours=1)


def reconciler(world: World, **policy: object) -> Reconciler:
    """A reconciler over the world's ports."""
    return Reconciler(
        world.observer,
        world.kernels_port,
        world.log,
        world.clock,
        replace(POLICY, **policy),
        tick_seconds=0.05,
    )


async def rounds(one: Reconciler, world: World, count: int = 1, seconds: float = 5) -> None:
    """So many ticks, each with what it started done and written, and time passing after it."""
    for _ in range(count):
        await one.tick()
        await one.quiet()
        world.clock.advance(seconds=seconds)


def check(world: World) -> None:
    """No data changed, no GPU holds more than it has, and each kernel's rows are a legal way to where it now is."""
    for gpu in world.gpu_bytes:
        assert world.free(gpu) >= 0
    for kernel in world.kernels.values():
        assert kernel.data == f"tensors of {kernel.kernel_id}"
        phase = Phase.RESIDENT
        rows = [row for row in world.log.rows if row.kernel_id == kernel.kernel_id]
        for row in rows:
            phase = advance(Phase.RESIDENT if phase is Phase.GONE else phase, row.event)
            assert phase is row.phase, row
        instants = [row.at for row in rows]
        assert instants == sorted(set(instants)), (
            "the order of a kernel's rows cannot be told from their instants"
        )
        assert kernel.phase in (phase, Phase.RESIDENT if phase is Phase.GONE else phase)
    assert len({row.id for row in world.log.rows}) == len(world.log.rows)
