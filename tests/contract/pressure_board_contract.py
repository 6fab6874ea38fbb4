"""What every `PressureBoard` promises. A test class inherits `BoardContract` and brings a fixture `new_board`.

Each call of `new_board()` makes the board of one more server on the same machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from jupyter_gpu_reclaim.ports import PressureBoard

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NewBoard = Callable[[], PressureBoard]


class BoardContract:
    """The promises of the port, one test each."""

    def test_each_sees_what_the_others_wait_for(self, new_board: NewBoard) -> None:
        """Bytes of all other servers are summed by GPU; what a server waits for itself is not among them."""
        a, b, c = new_board(), new_board(), new_board()
        a.publish({"GPU-1": 10, "GPU-2": 1}, NOON)
        b.publish({"GPU-1": 5 << 40}, NOON)
        assert c.waiting_elsewhere() == {"GPU-1": 10 + (5 << 40), "GPU-2": 1}
        assert a.waiting_elsewhere() == {"GPU-1": 5 << 40}
        assert b.waiting_elsewhere() == {"GPU-1": 10, "GPU-2": 1}
        assert [board.problem for board in (a, b, c)] == [None] * 3

    def test_the_last_word_counts(self, new_board: NewBoard) -> None:
        """A server's new notice takes the place of its last one; {} withdraws it, once or twice."""
        a, b = new_board(), new_board()
        for waiting in (
            {"GPU-1": 10},
            {"GPU-2": 3},
            {"GPU-2": 3},
            {"GPU-1": 7, "GPU-2": 3},
            {},
            {},
            {"GPU-1": 1},
        ):
            a.publish(waiting, NOON if waiting else None)
            assert b.waiting_elsewhere() == waiting
        assert (a.problem, b.problem) == (None, None)

    async def test_a_claim_keeps_other_servers_out(self, new_board: NewBoard) -> None:
        """Who asks for a GPU that another server has waits until it is given back; another GPU is had meanwhile."""
        a, b = new_board(), new_board()
        had = asyncio.Event()

        async def second() -> None:
            async with b.claim(["GPU-1"]):
                had.set()

        async with a.claim(["GPU-1", "GPU-2"]):
            waiting = asyncio.create_task(second())
            async with b.claim(["GPU-3"]):
                pass
            assert not had.is_set()
        await waiting
        assert had.is_set()
        assert (a.problem, b.problem) == (None, None)

    async def test_claims_of_one_server_take_turns(self, new_board: NewBoard) -> None:
        """Restores of one server on one GPU have it one after the other, in the order in which they asked."""
        board, order = new_board(), []

        async def restore(number: int) -> None:
            async with board.claim(["GPU-1"]):
                order.append(number)
                await asyncio.sleep(0)
                order.append(number)

        await asyncio.gather(*(restore(number) for number in range(5)))
        assert order == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]

    async def test_a_claim_that_is_cancelled_or_fails_is_given_back(self, new_board: NewBoard) -> None:
        """Cancelled while it waits, cancelled while it has the GPU, left by an error: the next one gets it."""
        a, b, chance = new_board(), new_board(), random.Random(7)

        async def keep(board: PressureBoard, had: asyncio.Event) -> None:
            async with board.claim(["GPU-1"]):
                had.set()
                await asyncio.Event().wait()

        for _ in range(20):
            holding, waiting = asyncio.Event(), asyncio.Event()
            holder = asyncio.create_task(keep(a, holding))
            await holding.wait()
            waiter = asyncio.create_task(keep(b, waiting))
            for _ in range(chance.randint(0, 5)):
                await asyncio.sleep(0)
            waiter.cancel()
            holder.cancel()
            await asyncio.gather(holder, waiter, return_exceptions=True)
            assert not waiting.is_set()
            with pytest.raises(ZeroDivisionError):
                async with b.claim(["GPU-1"]):
                    _ = 1 / 0
        assert (a.problem, b.problem) == (None, None)

    async def test_two_gpus_asked_for_in_opposite_order(self, new_board: NewBoard) -> None:
        """Servers that need the same GPUs, named in whatever order, never wait for each other, and never overlap."""
        boards, inside = [new_board(), new_board()], []

        async def restores(board: PressureBoard, gpus: list[str]) -> None:
            for _ in range(20):
                async with board.claim(gpus):
                    inside.append(gpus)
                    await asyncio.sleep(0)
                    assert inside == [gpus]
                    inside.clear()

        await asyncio.gather(
            restores(boards[0], ["GPU-1", "GPU-2", "GPU-3"]), restores(boards[1], ["GPU-3", "GPU-2", "GPU-1"])
        )
        assert [board.problem for board in boards] == [None, None]

    async def test_nothing_claimed_is_had_at_once(self, new_board: NewBoard) -> None:
        """A kernel that needs no GPU waits for nobody; a GPU named twice is claimed once."""
        async with new_board().claim([]), new_board().claim(["GPU-1", "GPU-1"]):
            pass
