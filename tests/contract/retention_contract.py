"""What retention promises on every database. A test class brings a fixture `log`, empty."""

from __future__ import annotations

from datetime import timedelta

from contract.log_contract import NOON, everything, numbers, row

from jupyter_gpu_reclaim.core.model import Event, Transition
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.retention import BATCH, Retention

DAY = timedelta(days=1)


def old(number: int, days: float, **fields: object) -> Transition:
    """A row so many days before NOON, on two GPUs."""
    return row(number, at=NOON - days * DAY, footprint={"GPU-1": 1, "GPU-2": 1}, **fields)


class RetentionContract:
    """The promises, one test each."""

    async def test_episodes_go_whole_and_only_when_over(self, log: SqlReclaimLog) -> None:
        """Rows too old go with their whole episode; an episode that reaches into what stays, and alarms, stay."""
        await log.append(
            [
                old(1, 40, episode_id="over"),
                old(2, 40, event=Event.PINNED),
                old(3, 39, episode_id="reaching"),
                old(4, 38, event=Event.ALARM_RAISED),
                old(5, 37, event=Event.ALARM_RAISED, episode_id="over"),
                old(6, 31, episode_id="over"),
                old(7, 29, episode_id="reaching"),
                old(8, 29),
            ]
        )
        told = await Retention(30 * DAY, None).enforce(log, NOON)
        assert told.event is Event.ROWS_DELETED
        assert told.detail.startswith("3 rows of episodes that ended before 2026-01-30T12:00:00+00:00")
        assert sorted(numbers(await everything(log))) == [3, 4, 5, 7, 8]
        assert sorted(numbers(await everything(log, gpu="GPU-2"))) == [3, 4, 5, 7, 8]
        assert await Retention(30 * DAY, None).enforce(log, NOON) is None

    async def test_more_rows_than_allowed(self, log: SqlReclaimLog) -> None:
        """The newest rows stay, as many as are allowed; none of the last day goes, however many there are."""
        await log.append([old(n, 100 - n) for n in range(1, 21)])
        await Retention(None, 7).enforce(log, NOON)
        assert numbers(await everything(log)) == list(range(20, 13, -1))
        await log.append([old(n, 0.5) for n in range(21, 31)])
        await Retention(None, 3).enforce(log, NOON)
        assert sorted(numbers(await everything(log))) == list(range(21, 31))
        assert await Retention(None, 100).enforce(log, NOON) is None
        assert await Retention(None, None).enforce(log, NOON) is None

    async def test_more_than_a_batch(self, log: SqlReclaimLog) -> None:
        """Thousands of old rows go, those in the way that must stay do not stop it, and what is new stays."""
        staying = [old(n, 50, episode_id=f"open-{n}") for n in range(1, BATCH + 50)]
        going = [old(10_000 + n, 45, episode_id=f"e{n // 4}") for n in range(3 * BATCH)]
        ends = [old(20_000 + n, 1, episode_id=f"open-{n}") for n in range(1, BATCH + 50)]
        await log.append([*staying, *going, *ends])
        told = await Retention(30 * DAY, None).enforce(log, NOON)
        assert told.detail.startswith(f"{3 * BATCH} rows")
        assert {one.id for one in await everything(log, limit=1000)} == {one.id for one in (*staying, *ends)}

    async def test_a_day_is_the_least(self, log: SqlReclaimLog) -> None:
        """However short the age that is set, a day is kept: a pin or an episode under way may need it."""
        await log.append([old(1, 2), old(2, 0.9)])
        await Retention(timedelta(seconds=1), None).enforce(log, NOON)
        assert numbers(await everything(log)) == [2]
