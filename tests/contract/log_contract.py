"""What every `ReclaimLog` promises. A test class inherits `LogContract` and brings a fixture `log`, empty and open."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from jupyter_gpu_reclaim.core.model import Event, Phase, Reason, Transition
from jupyter_gpu_reclaim.ports import BadCursor, ReclaimLog

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def row(number: int, **fields: Any) -> Transition:
    """A transition whose id comes from `number`; it is at NOON unless told otherwise."""
    defaults: dict[str, Any] = {
        "id": str(UUID(int=number)),
        "at": NOON,
        "kernel_id": "kernel-1",
        "event": Event.RECLAIM_DONE,
        "phase": Phase.RECLAIMED,
    }
    return Transition(**{**defaults, **fields})


async def everything(log: ReclaimLog, limit: int = 7, **filters: Any) -> list[Transition]:
    """All pages of a query, one after the other."""
    rows, after = await log.query(limit=limit, **filters)
    while after is not None:
        page, after = await log.query(limit=limit, after=after, **filters)
        rows += page
    return rows


def numbers(rows: list[Transition]) -> list[int]:
    """The numbers that the rows were made with."""
    return [UUID(row.id).int for row in rows]


class LogContract:
    """The promises of the port, one test each."""

    async def test_a_row_comes_back_as_it_was(self, log: ReclaimLog) -> None:
        """Every field comes back equal: bytes beyond 32 bits, microseconds, maps, text in any script, unset ones."""
        full = row(
            1,
            at=NOON + timedelta(microseconds=1),
            episode_id=str(UUID(int=99)),
            reason=Reason.PRESSURE,
            label="Übung 3 – 数据.ipynb 'x' \"y\" \\ %s {} 🙂\n",
            owner="zoë",
            mechanism="torch_offload",
            footprint={"GPU-a": 80 << 30, "GPU-b": 0},
            moved_bytes=2**62,
            freed_bytes={"GPU-a": 79 << 30},
            unmovable={'a captured CUDA graph: "g"': 12},
            took=timedelta(days=1, seconds=2, microseconds=3),
            detail="d" * 10_000,
            actor="admin",
            simulated=True,
        )
        bare = row(2, at=NOON)
        await log.append([full, bare])
        assert await log.query() == ([full, bare], None)

    async def test_every_word_can_be_written(self, log: ReclaimLog) -> None:
        """Each event, phase and reason there is comes back as itself."""
        rows = [row(1 + n, event=event) for n, event in enumerate(Event)]
        rows += [row(101 + n, phase=phase) for n, phase in enumerate(Phase)]
        rows += [row(201 + n, reason=reason) for n, reason in enumerate(Reason)]
        await log.append(rows)
        assert await everything(log) == rows[::-1]

    async def test_instants_come_back_in_utc(self, log: ReclaimLog) -> None:
        """An instant in another zone is the same instant afterwards, in UTC, and has its place in the order of time."""
        tokyo = timezone(timedelta(hours=9))
        rows = [row(1, at=NOON), row(2, at=(NOON + SECOND).astimezone(tokyo)), row(3, at=NOON + 2 * SECOND)]
        await log.append(rows)
        found, _ = await log.query()
        assert numbers(found) == [3, 2, 1]
        assert [one.at.utcoffset() for one in found] == [timedelta(0)] * 3
        assert found[1].at == NOON + SECOND

    async def test_a_row_is_written_once(self, log: ReclaimLog) -> None:
        """Appending an id again, in another call or the same, changes nothing; what is new beside it is written."""
        first = row(1, detail="the first")
        await log.append([first, first])
        await log.append([row(1, detail="another"), row(2)])
        await log.append([])
        assert numbers(await everything(log)) == [2, 1]
        assert (await everything(log))[-1] == first

    async def test_newest_first_then_last_come_first(self, log: ReclaimLog) -> None:
        """Rows come by their instant, newest first; of one instant, the one appended later comes first."""
        await log.append([row(1), row(2, at=NOON + SECOND)])
        await log.append([row(3), row(4, at=NOON - SECOND), row(5)])
        assert numbers(await everything(log)) == [2, 5, 3, 1, 4]

    async def test_filters(self, log: ReclaimLog) -> None:
        """Each filter keeps exactly its rows, several together those that pass all of them."""
        await log.append(
            [
                row(1, kernel_id="a", reason=Reason.IDLE, footprint={"GPU-1": 1}),
                row(
                    2, kernel_id="b", reason=Reason.IDLE, footprint={"GPU-1": 1, "GPU-2": 0}, at=NOON + SECOND
                ),
                row(3, kernel_id="a", event=Event.RESTORE_DONE, footprint={"GPU-2": 1}, at=NOON + 2 * SECOND),
                row(
                    4,
                    kernel_id="a'b",
                    event=Event.LOST,
                    reason=Reason.LOST,
                    at=NOON + 3 * SECOND,
                    owner="ada",
                    label="x/y.ipynb",
                    mechanism="torch_offload",
                ),
            ]
        )
        for filters, expected in [
            ({"kernel_id": "a"}, [3, 1]),
            ({"kernel_id": "a'b"}, [4]),
            ({"kernel_id": "A"}, []),
            ({"gpu": "GPU-1"}, [2, 1]),
            ({"gpu": "GPU-2"}, [3, 2]),
            ({"gpu": "GPU-"}, []),
            ({"reason": Reason.IDLE}, [2, 1]),
            ({"events": [Event.LOST]}, [4]),
            ({"events": {Event.LOST, Event.RESTORE_DONE}}, [4, 3]),
            ({"events": ()}, [4, 3, 2, 1]),
            ({"events": {Event.LOST, Event.RECLAIM_DONE}, "until": NOON + 3 * SECOND}, [2, 1]),
            ({"owner": "ada"}, [4]),
            ({"label": "x/y.ipynb", "owner": ""}, []),
            ({"whose": "bob"}, [3, 2, 1]),
            ({"whose": "ada"}, [4, 3, 2, 1]),
            ({"whose": ""}, [3, 2, 1]),
            ({"whose": "bob", "owner": "ada"}, []),
            ({"whose": "ada", "events": {Event.LOST, Event.RESTORE_DONE}}, [4, 3]),
            ({"whose": "bob", "events": {Event.LOST, Event.RESTORE_DONE}, "since": NOON + SECOND}, [3]),
            ({"whose": "bob", "gpu": "GPU-2", "until": NOON + 2 * SECOND}, [2]),
            ({"whose": "ada", "owner": "ada", "reason": Reason.LOST, "mechanism": "torch_offload"}, [4]),
            ({"owner": "", "gpu": "GPU-2", "events": [Event.RECLAIM_DONE], "reason": Reason.IDLE}, [2]),
            ({"owner": "", "kernel_id": "a", "gpu": "GPU-2"}, [3]),
            ({"mechanism": "torch_offload", "label": "x/y.ipynb", "events": [Event.LOST]}, [4]),
            ({"since": NOON + SECOND}, [4, 3, 2]),
            ({"until": NOON + SECOND}, [1]),
            ({"since": NOON + SECOND, "until": NOON + 3 * SECOND}, [3, 2]),
            ({"gpu": "GPU-2", "since": NOON + 2 * SECOND}, [3]),
            ({"gpu": "GPU-1", "kernel_id": "a", "reason": Reason.IDLE, "events": [Event.RECLAIM_DONE]}, [1]),
            ({"gpu": "GPU-2", "kernel_id": "a", "reason": Reason.IDLE}, []),
        ]:
            assert numbers(await everything(log, limit=1, **filters)) == expected, filters
            assert numbers((await log.query(**filters))[0]) == expected, filters

    async def test_the_last_page_says_so(self, log: ReclaimLog) -> None:
        """There is a cursor while rows are left, and none with the last of them, even where it fills its page."""
        await log.append([row(n) for n in range(1, 5)])
        first, after = await log.query(limit=2)
        second, end = await log.query(limit=2, after=after)
        assert (numbers(first), numbers(second), end) == ([4, 3], [2, 1], None)
        assert await log.query(gpu="GPU-none") == ([], None)

    @pytest.mark.parametrize(
        "filters", [{}, {"gpu": "GPU-1"}, {"kernel_id": "kernel-1", "reason": Reason.IDLE}]
    )
    async def test_paging_while_rows_are_appended(self, log: ReclaimLog, filters: dict[str, Any]) -> None:
        """Every row that was there at the first page comes once and in order, whatever is appended meanwhile."""
        chance = random.Random(7)
        number = iter(range(1, 10_000))

        def some(count: int) -> list[Transition]:
            return [
                row(
                    next(number),
                    at=NOON + chance.randint(-2, 2) * SECOND,
                    footprint={"GPU-1": 1},
                    reason=Reason.IDLE,
                )
                for _ in range(count)
            ]

        await log.append(some(40))
        for _ in range(5):
            there = numbers(await everything(log, **filters))
            seen, after = await log.query(limit=3, **filters)
            while after is not None:
                await log.append(some(chance.randint(0, 3)))
                page, after = await log.query(limit=3, after=after, **filters)
                seen += page
            assert [n for n in numbers(seen) if n in set(there)] == there
            assert len(numbers(seen)) == len(set(numbers(seen)))
            assert [one.at for one in seen] == sorted((one.at for one in seen), reverse=True)

    @pytest.mark.parametrize(
        "cursor", ["", "x", "eyJ", "not a cursor", "MTI6", "..", "0" * 400, "é", "MTo0Cg=="]
    )
    async def test_a_cursor_that_is_none_of_ours(self, log: ReclaimLog, cursor: str) -> None:
        """A string that no query returned is refused as a cursor, not taken for the first page."""
        await log.append([row(1)])
        with pytest.raises(BadCursor):
            await log.query(after=cursor)
