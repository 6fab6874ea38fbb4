"""Moving by message: each answer of an agent becomes one outcome, and a lost answer is never a lost tensor."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agent_peer import LOG, Peer, agent_of, listening

from jupyter_gpu_reclaim.core.model import Done, Failed, Outcome, Reason, Refused
from jupyter_gpu_reclaim.server import kernels as kernels_module
from jupyter_gpu_reclaim.server.agent_status import AgentStatus
from jupyter_gpu_reclaim.server.kernels import AgentKernels, time_limit


async def answered(peer: Peer, work: Any, **reply: Any) -> Outcome:
    """The outcome of `work` when the agent replies this."""
    task = asyncio.create_task(work)
    request = await peer.hear()
    peer.say("reply", re=request["id"], **reply)
    return await task


async def test_each_answer_has_its_outcome(tmp_path: Path) -> None:
    """Done with its figures, refused with its reason, failed with its error: as the agent said, in our types."""
    async with listening(tmp_path) as (links, _):
        kernels = AgentKernels(links, LOG)
        peer, _ = await agent_of(links, "k")
        done = {
            "outcome": "done", "moved_bytes": 7, "took_seconds": 0.5, "freed_bytes": {"A": 8}, "needed_bytes": {"A": 9},
            "unmovable": {"aliased": 1}, "spilled_bytes": 2,
        }  # fmt: skip
        assert await answered(peer, kernels.suspend("k", 7), **done) == Done(
            moved_bytes=7,
            took=timedelta(seconds=0.5),
            freed_bytes={"A": 8},
            needed_bytes={"A": 9},
            unmovable={"aliased": 1},
            spilled_bytes=2,
        )
        refused = {"outcome": "refused", "reason": "running", "detail": "a cell"}
        assert await answered(peer, kernels.suspend("k", 7), **refused) == Refused(Reason.RUNNING, "a cell")
        failed = {"outcome": "failed", "error": "no room", "memory_intact": True, "out_of_memory": True}
        assert await answered(peer, kernels.resume("k"), **failed) == Failed(
            "no room", memory_intact=True, out_of_memory=True
        )
        lost = {"outcome": "failed", "error": "gone", "memory_intact": False, "out_of_memory": False}
        assert await answered(peer, kernels.resume("k"), **lost) == Failed("gone", memory_intact=False)


async def test_the_host_is_told_how_much_it_may_give(tmp_path: Path) -> None:
    """The order to suspend carries the limit of host memory, and a folder with its limit only when disk is granted."""
    async with listening(tmp_path) as (links, _):
        kernels = AgentKernels(links, LOG, spill_dir="/disk")
        peer, _ = await agent_of(links, "k")
        orders = []
        for room in ((7,), (7, 3)):
            task = asyncio.create_task(kernels.suspend("k", *room))
            order = await peer.hear()
            peer.say("reply", re=order.pop("id"), outcome="refused", reason="running", detail="")
            await task
            orders.append(order)
        assert orders == [
            {"op": "suspend", "host_limit_bytes": 7},
            {"op": "suspend", "host_limit_bytes": 7, "spill_dir": "/disk", "spill_limit_bytes": 3},
        ]


@pytest.mark.parametrize(
    "nonsense",
    [
        {},
        {"outcome": "splendid"},
        {"outcome": "refused", "reason": "moody"},
        {"outcome": "done", "moved_bytes": -1, "took_seconds": 1},
        {"outcome": "done", "moved_bytes": 1, "took_seconds": "long"},
        {"outcome": "done", "moved_bytes": 1, "took_seconds": float("nan")},
        {"outcome": "done", "moved_bytes": 1, "took_seconds": 1, "freed_bytes": []},
    ],
)
async def test_nonsense_is_a_failure_that_loses_nothing(tmp_path: Path, nonsense: dict[str, Any]) -> None:
    """An answer outside the protocol fails the move, and leaves the next status to say where the bytes are."""
    async with listening(tmp_path) as (links, _):
        peer, _ = await agent_of(links, "k")
        outcome = await answered(peer, AgentKernels(links, LOG).suspend("k", 7), **nonsense)
        assert isinstance(outcome, Failed)
        assert outcome.memory_intact
        assert "makes no sense" in outcome.error


async def test_without_an_agent_nothing_is_asked(tmp_path: Path) -> None:
    """A kernel whose agent is not connected is refused, and ending its wait is no error."""
    async with listening(tmp_path) as (links, _):
        kernels = AgentKernels(links, LOG)
        for outcome in (await kernels.suspend("k", 7), await kernels.resume("k")):
            assert isinstance(outcome, Refused)
            assert outcome.reason is Reason.LINK_LOST
        await kernels.end_wait("k", "over")


async def test_an_agent_that_goes_away_or_hangs_fails_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost or missing answer is a failure with the memory intact: nobody may conclude that data is lost."""
    monkeypatch.setattr(kernels_module, "SHORTEST_LIMIT", timedelta(milliseconds=50))
    async with listening(tmp_path) as (links, _):
        kernels = AgentKernels(links, LOG)
        peer, _ = await agent_of(links, "k")
        outcome = await kernels.suspend("k", 7)
        assert isinstance(outcome, Failed)
        assert outcome.memory_intact
        assert "has not finished" in outcome.error
        await peer.hear()
        monkeypatch.setattr(kernels_module, "SHORTEST_LIMIT", timedelta(seconds=20))
        asked = asyncio.create_task(kernels.resume("k"))
        await peer.hear()
        await peer.leave()
        outcome = await asked
        assert isinstance(outcome, Failed)
        assert outcome.memory_intact
        assert "went away" in outcome.error


async def test_ending_a_wait_carries_its_message(tmp_path: Path) -> None:
    """The agent gets the sentence that the waiting cell is to end with."""
    async with listening(tmp_path) as (links, _):
        peer, _ = await agent_of(links, "k")
        await AgentKernels(links, LOG).end_wait("k", "no room for ten minutes")
        told = {"op": "end_wait", "message": "no room for ten minutes", "interrupted": False}
        assert await peer.hear() == told


def test_the_limit_grows_with_what_moves() -> None:
    """80 GiB get the minutes they may need on a slow host; nothing at all still gets a minute."""
    assert time_limit(AgentStatus()) == timedelta(seconds=60)
    assert time_limit(AgentStatus(reserved_bytes={"A": 80 << 30})) > timedelta(minutes=14)
    assert time_limit(AgentStatus(needed_bytes={"A": 80 << 30})) > timedelta(minutes=14)
