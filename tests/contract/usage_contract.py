"""What the store of usage samples promises on every database. A test class brings a fixture `log`, empty."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jupyter_gpu_reclaim.core.figures import Point
from jupyter_gpu_reclaim.core.model import Gpu
from jupyter_gpu_reclaim.core.usage import GpuAmounts, KernelAmounts, Span
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.usage import UsageStore
from jupyter_gpu_reclaim.reclaim_log.usage_rows import DAY, HOUR

TEN = 1_790_000_000 // HOUR * HOUR  # o'clock, some day
GPUS = {name: Gpu(uuid=name, name="Some GPU", total_bytes=1, used_bytes=0) for name in ("G1", "G2")}


def span(at: int, resident: int = 7, gpus: tuple[str, ...] = ("G1",), label: str = "n.ipynb") -> Span:
    """A span with the same amounts on each GPU, all of one kernel."""
    return Span(
        at,
        {gpu: GpuAmounts(ms=10_000, total=100, resident=resident, reclaimed=3) for gpu in gpus},
        {("k", label, "ada", gpu): KernelAmounts(ms=10_000, resident=resident, reclaimed=3) for gpu in gpus},
    )


def residents(points: list[Point]) -> list[tuple[str, int, int]]:
    """(GPU, seconds after TEN, resident) of each."""
    return [(point.gpu, point.at - TEN, point.amounts.resident) for point in points]


class UsageContract:
    """The promises, one test each."""

    async def test_finer_samples_are_summed_up(self, log: SqlReclaimLog) -> None:
        """Ten seconds, minutes, hours and what lies between each hold the sum of what is in them, per GPU."""
        store = UsageStore(log, "ada@host/0")
        await store.write([span(TEN + at, gpus=("G1", "G2")) for at in (0, 10, 50)], GPUS)
        await store.write([span(TEN + at) for at in (60, 70, 3600)], GPUS)
        assert residents(await store.points(TEN, TEN + 2 * HOUR, 10)) == [
            *(("G1", at, 7) for at in (0, 10, 50, 60, 70, 3600)),
            *(("G2", at, 7) for at in (0, 10, 50)),
        ]
        assert residents(await store.points(TEN, TEN + 2 * HOUR, 60)) == [
            ("G1", 0, 21), ("G1", 60, 14), ("G1", 3600, 7), ("G2", 0, 21),
        ]  # fmt: skip
        hours = [("G1", 0, 35), ("G1", 3600, 7), ("G2", 0, 21)]
        assert residents(await store.points(TEN, TEN + 2 * HOUR, HOUR)) == hours
        assert residents(await store.points(TEN, TEN + 60, 20)) == [
            ("G1", 0, 14), ("G1", 40, 7), ("G2", 0, 14), ("G2", 40, 7),
        ]  # fmt: skip
        day = await store.points(TEN - 20 * HOUR, TEN + DAY, DAY)
        assert sum(point.amounts.resident for point in day) == 35 + 7 + 21
        assert await store.oldest() == TEN
        assert await store.gpus() == {"G1": ("Some GPU", False), "G2": ("Some GPU", False)}

    async def test_writing_again_replaces(self, log: SqlReclaimLog) -> None:
        """A span whose answer was lost can be written again: it, its minute and its hour are as if written once."""
        store = UsageStore(log, "ada@host/0")
        await store.write([span(TEN), span(TEN + 10)], GPUS)
        await store.write([span(TEN + 10), span(TEN + 20, resident=1)], GPUS)
        for step in (10, 60, HOUR):
            points = await store.points(TEN, TEN + HOUR, step)
            assert sum(point.amounts.resident for point in points) == 15
        (share,) = await store.shares(TEN, TEN + HOUR)
        assert share.amounts == KernelAmounts(ms=30_000, resident=15, reclaimed=9)

    async def test_servers_are_kept_apart(self, log: SqlReclaimLog) -> None:
        """Each server reads its own GPUs; shares are of all servers, each kernel with its names as they are kept."""
        one, other = (
            UsageStore(log, "ada@host/0"),
            UsageStore(log, "bob@host/0", word=lambda name: f"#{len(name)}"),
        )
        await one.write([span(TEN)], GPUS)
        await other.write([span(TEN, resident=2)], GPUS)
        assert residents(await one.points(TEN, TEN + HOUR, HOUR)) == [("G1", 0, 7)]
        assert residents(await other.points(TEN, TEN + HOUR, HOUR)) == [("G1", 0, 2)]
        both = await one.points(TEN, TEN + HOUR, HOUR, every_source=True)
        assert sorted(residents(both)) == [("G1", 0, 2), ("G1", 0, 7)]
        shares = await other.shares(TEN, TEN + HOUR)
        assert [(share.label, share.owner, share.amounts.resident) for share in shares] == [
            ("n.ipynb", "ada", 7),
            ("#7", "#3", 2),
        ]
        assert await other.shares(TEN + HOUR, TEN + DAY) == []

    async def test_fine_samples_go_and_hours_stay(self, log: SqlReclaimLog) -> None:
        """Days later the ten seconds and minutes are gone, the hours are there until they are to be forgotten."""
        store = UsageStore(log, "ada@host/0")
        await store.write([span(TEN)], GPUS)
        await store.write([span(TEN + 9 * DAY)], GPUS)
        for step, kept in ((10, [9 * DAY]), (60, [9 * DAY]), (HOUR, [0, 9 * DAY])):
            assert [at for _, at, _ in residents(await store.points(TEN, TEN + 10 * DAY, step))] == kept
        await store.forget(TEN + DAY)
        assert [at for _, at, _ in residents(await store.points(TEN, TEN + 10 * DAY, HOUR))] == [9 * DAY]

    async def test_a_closed_database(self, log: SqlReclaimLog) -> None:
        """What cannot be written or read is an error with a cause, as with the log."""
        store = UsageStore(log, "ada@host/0")
        await log.close(timedelta(seconds=5))
        with pytest.raises(LogUnavailable, match="closed"):
            await store.write([span(TEN)], GPUS)
        with pytest.raises(LogUnavailable, match="closed"):
            await store.points(TEN, TEN + HOUR, 10)
