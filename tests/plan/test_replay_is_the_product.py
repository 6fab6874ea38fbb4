"""The reconciler itself, driven second by second, writes down what the replay says it will."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from fakes import GIB, START, World

from jupyter_gpu_reclaim.core.model import Event, Policy, Transition
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.replay import replay
from jupyter_gpu_reclaim.plan.seat import BEGINNING
from jupyter_gpu_reclaim.plan.trace import SECOND, Trace, TraceKernel
from jupyter_gpu_reclaim.reconciler import Reconciler

SECONDS, KERNELS, GPU = 600, 6, "GPU-0000"
POLICY = Policy(
    idle_after=timedelta(seconds=60), warn_before=timedelta(seconds=10), restore_timeout=timedelta(0),
    pressure_idle_after=timedelta(seconds=10), cooldown=timedelta(0), host_reserve_bytes=0,
)  # fmt: skip
AT_ONCE = Machine(
    gpu_bytes=16 * GIB,
    host_bytes=999 * GIB,
    context_bytes=0,
    offload_speed=1e30,
    onload_speed=1e30,
    fixed_seconds=0,
)


def crowd(seed: int) -> Trace:
    """Cells at whole seconds of kernels that the GPU does not hold together; one kernel grows."""
    chance = random.Random(seed)
    kernels = []
    for number in range(KERNELS):
        kernel, held = TraceKernel(f"k{number}", "", ""), chance.randint(2, 7) * GIB
        for cell in range(40):
            grown = GIB if number == 0 and cell > 3 else 0
            kernel.add(chance.choice([3, 20, 90]) * SECOND, chance.choice([2, 15, 60]) * SECOND, held + grown)
        kernels.append(kernel)
    return Trace(tuple(kernels), SECONDS * SECOND)


class People:
    """They run the trace's cells in the world's kernels, each after the last has ended."""

    def __init__(self, trace: Trace, world: World, limited: bool) -> None:
        self.trace, self.world, self.limited = trace, world, limited
        self.cell = dict.fromkeys(range(KERNELS), 0)
        self.comes = {n: kernel.rests[0] // SECOND for n, kernel in enumerate(trace.kernels)}
        self.ends: dict[int, int] = {}
        for kernel in trace.kernels:
            world.start(kernel.kernel_id).last_active_at = None

    def go_on(self, now: int) -> None:
        """Cells end and come."""
        for number in [n for n, at in self.ends.items() if at == now]:
            del self.ends[number]
            self.world.end_cell(f"k{number}")
            self.cell[number] += 1
            self.comes[number] = now + self.trace.kernels[number].rests[self.cell[number]] // SECOND
        for number in [n for n, at in self.comes.items() if at == now]:
            del self.comes[number]
            kernel = self.world.kernels[f"k{number}"]
            if kernel.on_gpu and self.limited:
                kernel.place_wanted_at = self.world.clock.now()
            else:
                self.world.run_cell(kernel.kernel_id)

    def notice(self, now: int) -> bool:
        """See which cells began: they want more memory than there is, or will end. Whether any did."""
        began = False
        for number in set(range(KERNELS)) - self.ends.keys() - self.comes.keys():
            kernel, trace = self.world.kernels[f"k{number}"], self.trace.kernels[number]
            if kernel.running_since is None or kernel.room_wanted:
                continue
            began = True
            lacks = trace.held[self.cell[number]] - kernel.footprint.get(GPU, 0)
            if lacks > 0:
                self.world.want_room(kernel.kernel_id, **{GPU: lacks})
                kernel.room_wanted_at += timedelta(microseconds=1)  # after it was let in, as it always is
            else:
                self.ends[number] = now + trace.busy[self.cell[number]] // SECOND
        return began


async def lived(trace: Trace, policy: Policy) -> list[Transition]:
    """The rows that the product's own loop has written after these days, looking every second."""
    world = World(host_bytes=999 * GIB, **{GPU: 16 * GIB})
    world.move_takes = timedelta(0)
    people = People(trace, world, policy.max_running_per_gpu > 0)
    loop = Reconciler(world.observer, world.kernels_port, world.log, world.clock, policy, tick_seconds=1)
    for now in range(SECONDS):
        people.go_on(now)
        written = -1
        while people.notice(now) or len(world.log.rows) != written:
            written = len(world.log.rows)
            await loop.tick()
            await loop.quiet()
        world.clock.advance(seconds=1)
    return world.log.rows


def story(rows: list[Transition], beginning) -> list[tuple[int, str, Event, object]]:
    """What happened in which second, to whom, and why; order within a second left aside."""
    return sorted(
        ((row.at - beginning) // timedelta(seconds=1), row.kernel_id, row.event, row.reason or "")
        for row in rows
    )


@pytest.mark.parametrize(("seed", "places"), [(1, 0), (2, 2)])
def test_the_recorded_decisions_are_those_of_the_replay(seed: int, places: int) -> None:
    """Every reclaim and restore, its second and its reason are the same as the reconciler's over the same cells."""
    policy = replace(POLICY, max_running_per_gpu=places)
    trace, rows = crowd(seed), []
    replay(trace, 1, policy, AT_ONCE, tick_seconds=1, rows=rows)
    recorded = story(asyncio.run(lived(trace, policy)), START)
    assert len(recorded) > 30
    assert story(rows, BEGINNING) == recorded
