"""KernelControl over the agents' link: each call is one question to the kernel's agent, each answer an `Outcome`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from logging import LoggerAdapter
from typing import Any

from jupyter_gpu_reclaim.core.model import Done, Failed, Outcome, Reason, Refused
from jupyter_gpu_reclaim.server.agent_link import LinkLost
from jupyter_gpu_reclaim.server.agent_status import AgentStatus, count, counts
from jupyter_gpu_reclaim.server.link import AgentLinks

# A move that takes longer than this has hung: the slowest hosts seen copy ten times as fast.
SHORTEST_LIMIT = timedelta(seconds=60)
SLOWEST_BYTES_PER_SECOND = 100 << 20


class AgentKernels:
    """Moves a kernel's bytes by asking its agent. Where an answer is lost, the agent's next status settles it."""

    def __init__(self, links: AgentLinks, log: LoggerAdapter, spill_dir: str = "") -> None:
        self._links = links
        self._log = log
        self._spill_dir = spill_dir

    async def suspend(self, kernel_id: str, host_bytes: int, spill_bytes: int = 0) -> Outcome:
        """See `ports.KernelControl`."""
        room: dict[str, Any] = {"host_limit_bytes": host_bytes}
        if spill_bytes:
            room |= {"spill_dir": self._spill_dir, "spill_limit_bytes": spill_bytes}
        return await self._move("suspend", kernel_id, **room)

    async def resume(self, kernel_id: str) -> Outcome:
        """See `ports.KernelControl`."""
        return await self._move("resume", kernel_id)

    async def admit(self, kernel_id: str) -> None:
        """See `ports.KernelControl`."""
        link = self._links.link(kernel_id)
        try:
            if link is not None:
                link.tell("admit")
        except LinkLost:
            pass  # the agent lets everybody go ahead when it loses the server

    async def end_wait(self, kernel_id: str, message: str) -> None:
        """See `ports.KernelControl`."""
        self._end_wait(kernel_id, message, interrupted=False)

    def end_interrupted_wait(self, kernel_id: str, message: str) -> None:
        """As `end_wait`, where a person interrupted the kernel and SIGINT may not have reached the cell."""
        self._end_wait(kernel_id, message, interrupted=True)

    def _end_wait(self, kernel_id: str, message: str, interrupted: bool) -> None:
        link = self._links.link(kernel_id)
        try:
            if link is not None:
                link.tell("end_wait", message=message, interrupted=interrupted)
        except LinkLost:
            pass  # the agent ends every wait by itself when it loses the server

    async def _move(self, op: str, kernel_id: str, **keys: Any) -> Outcome:
        link = self._links.link(kernel_id)
        if link is None:
            return Refused(Reason.LINK_LOST, "The kernel's agent is not connected; nothing was moved.")
        limit = time_limit(link.status)
        try:
            return outcome_of(await link.ask(op, limit, **keys))
        except LinkLost:
            return Failed(
                f"The kernel's agent went away during {op}. Its memory stays as the agent left it; the next "
                "look at the kernel says where that is.",
                memory_intact=True,
            )
        except TimeoutError:
            return Failed(
                f"The kernel's agent has not finished {op} in {limit.total_seconds():.0f} s. It goes on by itself; the "
                "next look at the kernel says where its memory is.",
                memory_intact=True,
            )
        except ValueError as error:
            self._log.error("Agent of kernel %s answered %s with nonsense: %s", kernel_id, op, error)
            return Failed(
                f"The kernel's agent gave an answer to {op} that makes no sense ({error}).",
                memory_intact=True,
            )


def time_limit(status: AgentStatus) -> timedelta:
    """How long a move of all that the agent speaks of may take before it is given up waiting for."""
    moving = max(sum(status.reserved_bytes.values()), sum(status.needed_bytes.values()))
    return SHORTEST_LIMIT + timedelta(seconds=moving / SLOWEST_BYTES_PER_SECOND)


def outcome_of(reply: Mapping[str, Any]) -> Outcome:
    """The outcome in an agent's reply. Raises ValueError for one that the protocol does not know."""
    match reply.get("outcome"):
        case "done":
            return Done(
                moved_bytes=count(reply.get("moved_bytes")),
                took=_seconds(reply.get("took_seconds")),
                freed_bytes=counts(reply.get("freed_bytes")),
                needed_bytes=counts(reply.get("needed_bytes")),
                unmovable=counts(reply.get("unmovable")),
                spilled_bytes=count(reply.get("spilled_bytes", 0)),
            )
        case "refused":
            return Refused(Reason(reply.get("reason")), str(reply.get("detail") or ""))
        case "failed":
            return Failed(
                str(reply.get("error") or "no reason given"),
                memory_intact=reply.get("memory_intact") is True,
                out_of_memory=reply.get("out_of_memory") is True,
                damaged_gpu=_gpu(reply.get("damaged_gpu")),
            )
        case other:
            raise ValueError(f"outcome {other!r:.80}")


def _gpu(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"no GPU's UUID: {value!r:.80}")
    return value


def _seconds(value: object) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ValueError(f"not a span: {value!r:.80}")
    return timedelta(seconds=value)
