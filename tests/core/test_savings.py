"""The report of a made-up week, held to arithmetic done by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from jupyter_gpu_reclaim.core.energy import Assumptions
from jupyter_gpu_reclaim.core.figures import Point, Share
from jupyter_gpu_reclaim.core.savings import Report, merged, report
from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts

HOUR_MS = 3_600_000
GIB_HOUR = 1024 * 1024 * 3600
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
ASSUMED = Assumptions(
    price_per_gpu_hour=2.5, currency="EUR", pue=1.5, grams_per_kwh=50.0, grid_source="made up"
)

# Two GPUs of 16 GiB, 168 hours. On GPU-1, where others hold 1 GiB throughout: A, 12 GiB, resident for 8 hours on each
# of five days, in the first 2 of which it works; B, 10 GiB, resident and at work for 4 hours of five nights. Each is
# reclaimed at all other times. While A or B works the GPU is busy to nine tenths. On GPU-2: C, 16 GiB, reclaimed whole
# with its context in the first 100 hours, and gone after them.
A_DAYS, B_NIGHTS = range(9, 17), range(4)


def gpu_1(hour: int) -> GpuAmounts:
    """An hour of it."""
    day, of_day = divmod(hour, 24)
    a, b = day < 5 and of_day in A_DAYS, day < 5 and of_day in B_NIGHTS
    works = (a and of_day < 11) or b
    return GpuAmounts(
        ms=HOUR_MS, total=16 * GIB_HOUR, others=GIB_HOUR, busy_ms=HOUR_MS,
        resident=(12 * a + 10 * b) * GIB_HOUR, reclaimed=(12 * (not a) + 10 * (not b)) * GIB_HOUR,
        held_ms=HOUR_MS * (a or b), idle_ms=HOUR_MS * (a and not works), busy=HOUR_MS * 9 // 10 * works,
    )  # fmt: skip


def gpu_2(hour: int) -> GpuAmounts:
    """An hour of it."""
    c = hour < 100
    return GpuAmounts(
        ms=HOUR_MS, total=16 * GIB_HOUR, reclaimed=16 * c * GIB_HOUR, bare_ms=HOUR_MS * c, busy_ms=HOUR_MS
    )  # fmt: skip


def week(assumptions: Assumptions = ASSUMED, **changes: object) -> Report:
    """The report of it."""
    begin = int(MONDAY.timestamp())
    points = [
        Point(gpu=gpu, at=begin + 3600 * hour, amounts=amounts(hour))
        for hour in range(168)
        for gpu, amounts in (("GPU-1", gpu_1), ("GPU-2", gpu_2))
    ]
    shares = [
        share("a", "a.ipynb", "ada", "GPU-1", resident=480, idle=360, reclaimed=1536, waited_ms=180_000),
        share("b", "b.ipynb", "bob", "GPU-1", resident=200, idle=0, reclaimed=1480, waited_ms=60_000),
        share("c", "c.ipynb", "bob", "GPU-2", resident=0, idle=0, reclaimed=1600, waited_ms=0),
    ]
    given = {
        "since": MONDAY, "until": MONDAY + timedelta(days=7), "step_seconds": 3600, "points": points, "shares": shares,
        "gpu_names": {"GPU-1": ("NVIDIA H100", False), "GPU-2": ("NVIDIA H100 80GB HBM3", False)}, "restores": 12,
        "assumptions": assumptions,
    }  # fmt: skip
    return report(**{**given, **changes})


def share(kernel: str, label: str, owner: str, gpu: str, *, waited_ms: int, **gib_hours: int) -> Share:
    """A kernel's week, in GiB-hours."""
    amounts = KernelAmounts(
        ms=168 * HOUR_MS,
        waited_ms=waited_ms,
        **{name: value * GIB_HOUR for name, value in gib_hours.items()},
    )
    return Share(kernel_id=kernel, label=label, owner=owner, gpu=gpu, amounts=amounts)


def values(of: Report) -> dict[str, float | None]:
    """Its figures by name."""
    return {figure.name: figure.value for figure in of.figures}


def test_the_week_by_hand() -> None:
    """Every figure equals what pencil and paper give."""
    resident = 12 * 40 + 10 * 20
    reclaimed = 12 * (168 - 40) + 10 * (168 - 20) + 16 * 100
    room = 2 * 16 * 168
    assert values(week()) == {
        "GPU-hours observed": 336,
        "memory won back": reclaimed,
        "GPU-hours won back": pytest.approx(reclaimed / 16),
        "memory in use, with reclaim": pytest.approx(100 * (resident + 168) / room),
        "memory in use, without it": pytest.approx(100 * (resident + reclaimed + 168) / room),
        "held by idle notebooks, with reclaim": pytest.approx(100 * 30 / 60),
        "GPUs needed, with reclaim, peak": 1,  # 12 GiB
        "GPUs needed, with reclaim, 95th percentile": 1,  # 12 GiB in 40 of 168 hours
        "GPUs needed, without it, peak": 3,  # 12 + 10 + 16 = 38 GiB
        "GPUs needed, without it, 95th percentile": 3,  # in 100 of 168 hours
        "GPU utilisation, with reclaim": pytest.approx(100 * 0.9 * (10 + 20) / 336),
        "GPU utilisation, without it": pytest.approx(100 * 0.9 * (10 + 20) / (3 * 168)),
        "waiting caused": pytest.approx(4 / 60),
        "waiting for each restore": pytest.approx(240 / 12),
        "energy saved by GPUs": pytest.approx(2.6),  # 100 h × 26 W
        "energy saved with the building's share": pytest.approx(3.9),
        "carbon saved": pytest.approx(195),  # × 50 g
        "worth of the GPU-hours won back": pytest.approx(reclaimed / 16 * 2.5),
    }
    assert reclaimed == 4616
    assert all(figure.basis for figure in week().figures)


def test_who_held_what() -> None:
    """Users, notebooks and GPUs have their GiB-hours held, used and reclaimed and the hours they waited."""
    found = week()
    assert [
        (use.name, use.held_gib_hours, use.used_gib_hours, use.reclaimed_gib_hours) for use in found.users
    ] == [
        ("bob", 200, 200, 3080),
        ("ada", 480, 120, 1536),
    ]
    assert [(use.name, use.reclaimed_gib_hours) for use in found.notebooks] == [
        ("a.ipynb", 1536), ("b.ipynb", 1480), ("c.ipynb", 1600),
    ]  # fmt: skip
    assert [(use.name, use.held_gib_hours) for use in found.gpus] == [("GPU-1", 680), ("GPU-2", 0)]
    assert found.users[1].waited_hours == pytest.approx(0.05)
    noon = found.course[12]
    gib = 1 << 30
    assert (noon.resident_bytes, noon.footprint_bytes, noon.total_bytes) == (12 * gib, 38 * gib, 32 * gib)


def test_what_was_not_said_is_left_out() -> None:
    """Without price, grid or the GPU's power those figures are unknown, and say what is missing; none is guessed."""
    found = week(Assumptions(), gpu_names={"GPU-1": ("Some GPU", True), "GPU-2": ("Some GPU", True)})
    unknown = {figure.name: figure.basis for figure in found.figures if figure.value is None}
    assert set(unknown) == {
        "energy saved by GPUs",
        "energy saved with the building's share",
        "carbon saved",
        "worth of the GPU-hours won back",
    }
    assert "set context_watts" in unknown["energy saved by GPUs"]
    assert found.simulated
    set_by_hand = values(week(Assumptions(context_watts=40)))
    assert set_by_hand["energy saved by GPUs"] == pytest.approx(4.0)


def test_where_the_context_stays_no_energy_is_saved() -> None:
    """Memory moved off a GPU whose contexts stay saves room, and not one watt-hour."""
    points = [
        Point(gpu="GPU-2", at=3600 * hour, amounts=replace(gpu_2(hour), bare_ms=0)) for hour in range(100)
    ]
    found = values(week(points=points))
    assert found["GPU-hours won back"] == pytest.approx(100)
    assert (found["energy saved by GPUs"], found["carbon saved"]) == (0, 0)


def test_a_gpu_that_several_servers_see() -> None:
    """Each server's kernels are others to the next: bytes add up once, and it is idle only where nobody works."""
    one = GpuAmounts(ms=1000, total=16, resident=4, others=7, reclaimed=2, held_ms=1000, idle_ms=1000, busy=5)
    two = GpuAmounts(ms=900, total=14, resident=6, others=5, reclaimed=1, held_ms=900, idle_ms=400)
    (together,) = merged([Point(gpu="G", at=0, amounts=one), Point(gpu="G", at=0, amounts=two)])
    assert together.amounts == GpuAmounts(
        ms=1000, total=16, resident=10, others=1, reclaimed=3, held_ms=1000, idle_ms=500, busy=5
    )


def test_a_time_without_samples() -> None:
    """Nothing observed is no figure, not a good one."""
    found = week(points=[], shares=[], restores=0)
    assert values(found)["memory in use, with reclaim"] is None
    assert values(found)["waiting for each restore"] is None
    assert values(found)["GPU-hours observed"] == 0
    assert found.course == ()
