"""Worlds for the core's tests: plain builders, and hypothesis strategies that stay close to the edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from jupyter_gpu_reclaim.core.model import Gpu, Holding, Phase, Policy, Snapshot

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
GIB = 1 << 30
MINUTE = timedelta(minutes=1)


def gpu(uuid: str = "g0", free: int = 16, total: int = 16) -> Gpu:
    """A GPU, in GiB."""
    return Gpu(uuid=uuid, name="GPU", total_bytes=total * GIB, used_bytes=(total - free) * GIB)


def idle_kernel(kernel_id: str = "a", minutes: float = 60, gib: int = 4, **facts: object) -> Holding:
    """A kernel that has been idle for so long and may be reclaimed as far as it alone is concerned."""
    plain = {
        "label": f"{kernel_id}.ipynb",
        "managed": True,
        "mechanism": "torch_offload",
        "background_work": (),
        "gpu_busy": False,
        "last_active_at": NOW - minutes * MINUTE,
        "footprint": {"g0": gib * GIB},
    }
    return Holding(kernel_id=kernel_id, **(plain | facts))


def away(kernel_id: str = "w", gib: int = 4, waited: float = 1, **facts: object) -> Holding:
    """A reclaimed kernel that user code has been waiting for, for so many minutes."""
    plain = {
        "phase": Phase.RECLAIMED,
        "waiting": 1,
        "restore_wanted_at": NOW - waited * MINUTE,
        "footprint": {"g0": gib * GIB},
    }
    return idle_kernel(kernel_id, **(plain | facts))


def world(
    *holdings: Holding, gpus: tuple[Gpu, ...] | None = (gpu(),), host: int | None = 256, **more: object
) -> Snapshot:
    """The snapshot of these holdings; `host` in GiB."""
    host_bytes = None if host is None else host * GIB
    return Snapshot(taken_at=NOW, gpus=gpus, holdings=holdings, host_available_bytes=host_bytes, **more)


spans = st.integers(0, 90).map(lambda minutes: minutes * MINUTE)
past = spans.map(lambda span: NOW - span)
maybe_past = st.none() | past
around = st.none() | st.integers(-60, 60).map(lambda minutes: NOW + minutes * MINUTE)
sizes = st.integers(0, 16).map(lambda halves: halves * GIB // 2)


@st.composite
def holdings(draw: st.DrawFn, kernel_id: str, uuids: list[str]) -> Holding:
    """One kernel, most often one that could be acted on."""
    often = lambda usual, *others: draw(st.sampled_from([usual] * 4 + list(others)))  # noqa: E731
    phase = draw(st.sampled_from([Phase.RESIDENT] * 5 + [Phase.RECLAIMED] * 4 + list(Phase)))
    away_or_moving = phase in (Phase.RECLAIMED, Phase.RESTORING, Phase.RECLAIMING)
    total = draw(st.none() | st.integers(1, 8).map(lambda n: n * GIB))
    return Holding(
        kernel_id=kernel_id,
        label=kernel_id,
        managed=often(True, False),
        mechanism=often("torch_offload", None),
        distrusted=often(None, "An alarm stands."),
        running_since=often(None, NOW),
        background_work=often((), None, ("a thread",)),
        gpu_busy=often(False, None, True),
        last_active_at=draw(maybe_past),
        pinned_until=draw(st.none() | around),
        phase=phase,
        phase_since=draw(maybe_past),
        footprint=draw(st.dictionaries(st.sampled_from(uuids), sizes, max_size=len(uuids))),
        waiting=draw(st.integers(0, 2)) if away_or_moving else often(0, 1),
        restore_wanted_at=draw(maybe_past),
        prefetch_wanted_at=draw(st.none() | st.none() | past),
        room_wanted=often({}, {}, draw(st.dictionaries(st.sampled_from(uuids), sizes, max_size=2))),
        room_wanted_at=draw(maybe_past),
        place_wanted_at=draw(st.none() | st.none() | past),
        admitted_at=often(None, None, NOW),
        restored_early=often(False, False, True),
        warned_at=draw(maybe_past),
        priority=draw(st.integers(-1, 1)),
        reclaim_wanted_at=draw(st.none() | st.none() | past),
        retry_at=draw(st.none() | st.none() | around),
        moved_bytes=None if total is None else draw(st.integers(0, total)),
        move_total_bytes=total,
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Up to three GPUs (or none that could be observed) and up to eight kernels."""
    uuids = ["g0", "g1", "g2"][: draw(st.integers(1, 3))]
    seen = [
        Gpu(uuid=uuid, name="GPU", total_bytes=16 * GIB, used_bytes=draw(st.integers(0, 16)) * GIB)
        for uuid in uuids
    ]
    blind = draw(st.sampled_from([False] * 6 + [True]))
    count = draw(st.integers(0, 8))
    return Snapshot(
        taken_at=NOW,
        gpus=None if blind else tuple(seen),
        holdings=tuple(
            draw(holdings(f"k{i}", [*uuids, "unseen"] if i == 7 else uuids)) for i in range(count)
        ),
        host_available_bytes=draw(
            st.sampled_from([64, 64, 8, 4, None]).map(lambda n: n if n is None else n * GIB)
        ),
        outside_pressure=draw(st.dictionaries(st.sampled_from(uuids), sizes, max_size=1)),
    )


policies = st.builds(
    Policy,
    mode=st.sampled_from(["on", "on", "on", "dry_run", "off"]),
    idle_after=st.sampled_from([20 * MINUTE, timedelta(0)]),
    pressure_idle_after=st.sampled_from([2 * MINUTE, timedelta(0), 40 * MINUTE]),
    headroom_bytes=sizes,
    warn_before=st.sampled_from([timedelta(0), MINUTE, 40 * MINUTE]),
    cooldown=st.sampled_from([MINUTE, timedelta(0)]),
    max_running_per_gpu=st.sampled_from([0, 0, 1, 2]),
    min_reclaim_bytes=st.sampled_from([64 << 20, 0, 2 * GIB]),
    host_reserve_bytes=st.sampled_from([2 * GIB, 0]),
    max_in_flight=st.integers(1, 4),
)
counts = st.dictionaries(st.sampled_from([f"k{i}" for i in range(8)]), st.integers(0, 4))
stays = st.dictionaries(st.sampled_from(["g0", "g1", "g2"]), spans)
histories = st.dictionaries(st.sampled_from(["g0", "g1", "g2"]), past)
