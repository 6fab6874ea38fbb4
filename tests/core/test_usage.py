"""Snapshots become amounts: held to sums made by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from jupyter_gpu_reclaim.core.model import Gpu, Holding, Phase, Snapshot
from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts, Meter, Span, add

GIB = 1 << 30
START = datetime(2026, 3, 2, 10, tzinfo=UTC)
AT = int(START.timestamp())
GPU = Gpu(uuid="G", name="g", total_bytes=16 * GIB, used_bytes=5 * GIB, utilization=0.5, power_watts=100.5)
KERNEL = Holding(
    kernel_id="k", label="n.ipynb", owner="ada", footprint={"G": 4 * GIB}, last_active_at=START, background_work=()
)  # fmt: skip


def seen(seconds: float, gpu: Gpu | None = GPU, *holdings: Holding) -> Snapshot:
    """What is there so many seconds after START."""
    return Snapshot(
        taken_at=START + timedelta(seconds=seconds),
        gpus=None if gpu is None else (gpu,),
        holdings=holdings,
        host_available_bytes=None,
    )


def kib_seconds(gib: float, seconds: float) -> int:
    """GiB over seconds, in KiB × s."""
    return round(gib * 1024 * 1024 * seconds)


def metered(*snapshots: Snapshot) -> list[Span]:
    """All spans after these, with gaps of a minute at most."""
    meter = Meter(longest=timedelta(minutes=1))
    for snapshot in snapshots:
        meter.see(snapshot)
    return meter.rest()


def test_a_snapshot_holds_until_the_next() -> None:
    """25 seconds of one kernel become spans of 10, 10 and 5 seconds, each with its bytes, states, power and work."""
    spans = metered(seen(0, GPU, KERNEL), seen(7, GPU, KERNEL), seen(25))
    assert [(span.at - AT, span.gpus["G"].ms) for span in spans] == [(0, 10_000), (10, 10_000), (20, 5_000)]
    assert spans[0].gpus["G"] == GpuAmounts(
        ms=10_000, total=kib_seconds(16, 10), resident=kib_seconds(4, 10), others=kib_seconds(1, 10), held_ms=10_000,
        idle_ms=10_000, busy=5_000, busy_ms=10_000, millijoules=1_005_000, power_ms=10_000,
    )  # fmt: skip
    assert spans[2].kernels == {
        ("k", "n.ipynb", "ada", "G"): KernelAmounts(
            ms=5_000, resident=kib_seconds(4, 5), idle=kib_seconds(4, 5)
        )
    }


def test_where_the_bytes_are() -> None:
    """Bytes on their way count as on the GPU; those in host memory as reclaimed, and what is used beside as others'."""
    for phase, resident, reclaimed in (
        (Phase.RESIDENT, 4, 0),
        (Phase.RECLAIMING, 4, 0),
        (Phase.RECLAIMED, 0, 4),
        (Phase.RESTORING, 4, 0),
        (Phase.LOST, 0, 0),
    ):
        (span,) = metered(seen(0, GPU, replace(KERNEL, phase=phase, waiting=1)), seen(10))
        gpu, (kernel,) = span.gpus["G"], span.kernels.values()
        assert (gpu.resident, gpu.reclaimed) == (kib_seconds(resident, 10), kib_seconds(reclaimed, 10))
        assert (kernel.resident, kernel.reclaimed) == (gpu.resident, gpu.reclaimed)
        assert gpu.others == kib_seconds(5 - resident, 10)
        assert kernel.waited_ms == (10_000 if phase in (Phase.RECLAIMED, Phase.RESTORING) else 0)


def test_what_is_unknown_is_not_idle() -> None:
    """Held counts as idle only while every holder is known to be; one at work, or unknown, makes it used."""
    for change, idle in (
        ({}, True),
        ({"running_since": START}, False),
        ({"background_work": None}, False),
        ({"background_work": ("a thread",)}, False),
        ({"gpu_busy": True}, False),
        ({"last_active_at": None}, False),
    ):
        other = replace(KERNEL, kernel_id="o", **change)
        (span,) = metered(seen(0, replace(GPU, used_bytes=8 * GIB), KERNEL, other), seen(10))
        assert span.gpus["G"].held_ms == 10_000
        assert span.gpus["G"].idle_ms == (10_000 if idle else 0), change
        assert [amounts.idle > 0 for amounts in span.kernels.values()] == [True, idle]


def test_only_a_gpu_with_nobody_on_it_can_rest() -> None:
    """Bare time needs a mechanism that frees the context too, and not one byte of anybody else."""
    empty = replace(GPU, used_bytes=0)
    away = replace(KERNEL, phase=Phase.RECLAIMED)
    for gpu, holdings, bare in (
        (empty, (replace(away, mechanism="process_checkpoint"),), True),
        (empty, (replace(away, mechanism="torch_offload"),), False),
        (GPU, (replace(away, mechanism="process_checkpoint"),), False),
        (empty, (), False),
    ):
        (span,) = metered(seen(0, gpu, *holdings), seen(10))
        assert span.gpus["G"].bare_ms == (10_000 if bare else 0)


def test_what_was_not_observed_counts_nowhere() -> None:
    """A gap longer than the bound, GPUs that could not be read and a clock set back add nothing."""
    assert metered(seen(0, GPU, KERNEL), seen(61)) == []
    assert metered(seen(0, None, KERNEL), seen(10)) == []
    assert metered(seen(10, GPU, KERNEL), seen(0)) == []
    (span,) = metered(seen(0, replace(GPU, utilization=None, power_watts=None)), seen(10))
    assert (span.gpus["G"].busy_ms, span.gpus["G"].power_ms) == (0, 0)


def test_spans_are_handed_out_once_and_when_they_are_over() -> None:
    """The span under way is shown but not handed out; nothing is handed out twice, and amounts add up."""
    meter = Meter(longest=timedelta(minutes=1))
    meter.see(seen(0, GPU, KERNEL))
    meter.see(seen(14, GPU, KERNEL))
    assert [span.at - AT for span in meter.ended()] == [0]
    assert [span.at - AT for span in meter.current()] == [10]
    meter.see(seen(22, GPU, KERNEL))
    (whole,) = meter.ended()
    assert whole.gpus["G"].ms == 10_000
    both = GpuAmounts()
    for span in (whole, *meter.rest()):
        add(both, span.gpus["G"])
    assert (both.ms, both.resident) == (12_000, kib_seconds(4, 12))
