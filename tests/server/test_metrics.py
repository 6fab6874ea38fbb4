"""What /metrics tells, held to a world in which everything is known."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from fakes import GIB, World
from prometheus_client import CollectorRegistry
from test_handlers import extension, jp_server_config  # noqa: F401 (fixtures)

from jupyter_gpu_reclaim.core.model import Event, Gpu, Holding, Phase, Policy, Reason, Snapshot, Transition
from jupyter_gpu_reclaim.reconciler import Reconciler, Status
from jupyter_gpu_reclaim.server.app import GpuReclaim
from jupyter_gpu_reclaim.server.metrics import MOST_CAUSES, Metrics


@dataclass
class Queue:
    """A log's queue."""

    waiting: int = 0
    dropped: int = 0


def metrics(**queue: int) -> tuple[Metrics, CollectorRegistry]:
    """Metrics in a registry of their own."""
    registry = CollectorRegistry()
    made = Metrics(Queue(**queue), timedelta(minutes=1), registry)
    made.start()
    return made, registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """One sample."""
    return registry.get_sample_value(f"jupyter_gpu_reclaim_{name}", labels)


async def test_a_day_of_reclaims_and_restores() -> None:
    """Bytes by GPU follow the kernels; episodes, durations, waits and a return within the cooldown are counted once."""
    world = World(g0=16 * GIB)
    made, registry = metrics(waiting=3, dropped=2)
    policy = replace(Policy(), pressure_idle_after=timedelta(0), warn_before=timedelta(0))
    one = Reconciler(world.observer, world.kernels_port, world.log, world.clock, policy)
    one.on_change(made.see)

    async def look(seconds: float) -> None:
        await one.tick()
        await one.quiet()
        world.clock.advance(seconds=seconds)

    world.start("a", idle=timedelta(hours=1), g0=10 * GIB)
    world.others["g0"] = 2 * GIB
    await look(5)
    await look(5)
    held = [
        value(registry, f"{what}_bytes", gpu="g0") for what in ("resident", "reclaimed", "others", "total")
    ]
    assert held == [0, 10 * GIB, 2 * GIB, 16 * GIB]
    assert value(registry, "suspend_duration_seconds_sum") == 1.0
    world.others["g0"] = 10 * GIB
    world.run_cell("a")
    await look(7)  # no room yet: it waits
    world.others["g0"] = 0
    await look(0)
    await look(0)
    assert value(registry, "resident_bytes", gpu="g0") == 10 * GIB
    assert value(registry, "episodes_total", reason="idle", outcome="restored") == 1
    assert value(registry, "restore_duration_seconds_count") == 1
    assert value(registry, "wait_seconds_count") == 1
    assert 7 <= value(registry, "wait_seconds_sum") < 8
    assert value(registry, "thrashes_total") == 1
    assert (value(registry, "log_queue_rows"), value(registry, "log_lost_rows")) == (3, 2)


def test_labels_stay_few() -> None:
    """However many causes agents may name, a few get a label, the rest are summed up as others."""
    made, registry = metrics()
    causes = {f"cause {n}": 10 for n in range(100)}
    holding = Holding(kernel_id="k", label="n", unmovable=causes)
    world = World()
    gpu = Gpu(uuid="g0", name="g", total_bytes=1, used_bytes=0)
    snapshot = Snapshot(
        taken_at=world.clock.now(), gpus=(gpu,), holdings=(holding,), host_available_bytes=None
    )
    made.see(Status(policy=Policy(), snapshot=snapshot), ())
    (family,) = [one for one in registry.collect() if one.name == "jupyter_gpu_reclaim_unmovable_bytes"]
    assert len(family.samples) == MOST_CAUSES + 1
    assert value(registry, "unmovable_bytes", cause="other") == 10 * (100 - MOST_CAUSES)


def test_episodes_are_counted_however_they_end() -> None:
    """Refused, failed, lost and gone with their kernel are told apart; rows of an episode under way count nothing."""
    made, registry = metrics()
    clock = World().clock

    def row(episode: str, event: Event, phase: Phase, reason: Reason | None = None) -> Transition:
        clock.advance(hours=1)
        return Transition(
            id=f"{episode}-{event}", at=clock.now(), kernel_id="k", event=event, phase=phase, episode_id=episode,
            reason=reason,
        )  # fmt: skip

    for episode, end, outcome in (
        ("1", Event.RECLAIM_REFUSED, "refused"),
        ("2", Event.RECLAIM_FAILED, "failed"),
        ("3", Event.LOST, "lost"),
        ("4", Event.KERNEL_GONE, "kernel_gone"),
    ):
        made.see(
            Status(policy=Policy()), [row(episode, Event.RECLAIM_STARTED, Phase.RECLAIMING, Reason.PRESSURE)]
        )
        assert value(registry, "episodes_total", reason="pressure", outcome=outcome) is None
        made.see(Status(policy=Policy()), [row(episode, end, Phase.RESIDENT)])
        assert value(registry, "episodes_total", reason="pressure", outcome=outcome) == 1
    made.see(Status(policy=Policy()), [row("4", Event.ALARM_RAISED, Phase.RESIDENT)])
    assert made._open == {}


def test_each_is_described() -> None:
    """docs/metrics.md names every metric there is, and no other."""
    made, _ = metrics()
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    there = {family.name + ("_total" if family.type == "counter" else "") for family in made.collect()}
    assert set(re.findall(r"^\| `(jupyter_gpu_reclaim_\w+)`", page, re.M)) == there


async def test_they_are_on_jupyters_own_page(extension: GpuReclaim, jp_fetch: Any) -> None:  # noqa: F811
    """A running server has our metrics on /metrics beside its own; stopped it has not, and can start again."""
    page = (await jp_fetch("metrics")).body.decode()
    assert "jupyter_gpu_reclaim_log_queue_rows 0.0" in page
    assert "# TYPE jupyter_gpu_reclaim_wait_seconds histogram" in page
    await extension.stop_extension()
    assert "jupyter_gpu_reclaim_" not in (await jp_fetch("metrics")).body.decode()
