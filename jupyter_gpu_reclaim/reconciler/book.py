"""The kernels there are, each with what is remembered of it: kept in step with every look, and with the log's past."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from jupyter_gpu_reclaim.core.kernelspecs import policy_of
from jupyter_gpu_reclaim.core.model import Event, Holding, Phase, Policy, Reason, Snapshot
from jupyter_gpu_reclaim.ports import ReclaimLog
from jupyter_gpu_reclaim.reconciler.journal import RECORD_PATIENCE_SECONDS
from jupyter_gpu_reclaim.reconciler.memory import (
    ADMITTED_FOR,
    SETTLE_AFTER,
    KernelMemory,
    recall,
    restarted,
    settle,
)
from jupyter_gpu_reclaim.reconciler.moves import Moves
from jupyter_gpu_reclaim.reconciler.wishes import UnknownKernel, Wish

logger = logging.getLogger(__name__)

ROWS_OF_THE_PAST = 100
"""How far back the log is read for a kernel first seen: a pin older than so many of its rows is forgotten."""


class Book:
    """Kernel memories by kernel id."""

    def __init__(self, log: ReclaimLog, moves: Moves) -> None:
        self._log = log
        self._moves = moves
        self._memory: dict[str, KernelMemory] = {}
        self._looked_at: datetime | None = None

    def __getitem__(self, kernel_id: str) -> KernelMemory:
        return self._memory[kernel_id]

    def known(self, kernel_id: str) -> KernelMemory:
        """The kernel's memory. Raises `UnknownKernel`."""
        try:
            return self._memory[kernel_id]
        except KeyError:
            raise UnknownKernel(f"There is no kernel {kernel_id}.") from None

    def policy_of(self, kernel_id: str, policy: Policy) -> Policy:
        """What holds for the kernel in a server of that policy; the same for one that is not known."""
        memory = self._memory.get(kernel_id)
        return policy if memory is None else policy_of(memory.holding, policy)

    async def take_in(self, snapshot: Snapshot) -> None:
        """Bring the memory up to what a look has found, with a row for whatever the agents know better."""
        first_look = self._looked_at is None
        self._looked_at = now = snapshot.taken_at
        self._moves.simulated_gpus = frozenset(gpu.uuid for gpu in snapshot.gpus or () if gpu.simulated)
        self._moves.driver = snapshot.driver or self._moves.driver
        present = {holding.kernel_id for holding in snapshot.holdings}
        for kernel_id in self._memory.keys() - present:
            self._bury(self._memory.pop(kernel_id), "The kernel ended.")
        for holding in snapshot.holdings:
            self._meet(holding, now, newborn=not first_look)
        strangers = [m for m in self._memory.values() if m.holding.managed and not m.recalled]
        await self._recall(strangers)
        for memory in self._memory.values():
            settled = settle(memory, now, at_once=memory in strangers and memory.recalled)
            if settled is not None:
                event, reason, detail = settled
                memory.rested()
                self._moves.note(memory, event, reason=reason, detail=detail)

    def overlaid(self, seen: Snapshot, wishes: Mapping[str, Wish]) -> Snapshot:
        """The snapshot that `decide()` is to judge: what was seen, with phases, pins, rests and wishes laid over it."""
        totals = {gpu.uuid: gpu.total_bytes for gpu in seen.gpus or ()}
        holdings = []
        for holding in seen.holdings:
            overlaid = self._memory[holding.kernel_id].overlaid(totals, seen.taken_at)
            wish = wishes.get(holding.kernel_id)
            holdings.append(overlaid if wish is None else wish.overlaid(overlaid))
        return replace(seen, holdings=tuple(holdings))

    def due(self, policy: Policy) -> list[datetime]:
        """Instants after the last look at which something wants another, whether or not it will be time for one."""
        return [at for at in self._due(policy) if self._looked_at is None or at > self._looked_at]

    def _due(self, policy: Policy) -> Iterator[datetime]:
        for memory in self._memory.values():
            if memory.disagrees_since is not None:
                yield memory.disagrees_since + SETTLE_AFTER
            if memory.admitted_at is not None:
                yield memory.admitted_at + ADMITTED_FOR
            if memory.waiting_since is not None and memory.phase is Phase.RECLAIMED:
                if memory.retry_at is not None:
                    yield memory.retry_at
                if policy.restore_timeout:
                    yield memory.waiting_since + policy.restore_timeout

    def _meet(self, holding: Holding, now: datetime, newborn: bool) -> None:
        before = self._memory.get(holding.kernel_id)
        if before is None:
            self._memory[holding.kernel_id] = _first_sight(holding, newborn)
        elif restarted(before, holding):
            self._bury(before, "The kernel was restarted.")
            after = self._memory[holding.kernel_id] = _first_sight(holding)
            after.pinned_until, after.recalled = before.pinned_until, before.recalled
            after.touched = True  # what the log knows of phases is of the old one
        self._memory[holding.kernel_id].observe(holding, now)

    def _bury(self, memory: KernelMemory, detail: str) -> None:
        self._moves.forget(memory.kernel_id)
        if memory.phase not in (Phase.RESIDENT, Phase.GONE):
            self._moves.note(memory, Event.KERNEL_GONE, reason=Reason.KERNEL_ENDED, detail=detail)

    async def _recall(self, strangers: list[KernelMemory]) -> None:
        """Ask the log about kernels first seen. While it does not answer they are not reclaimed: one may be pinned.

        Those that came after our first look have no past: with them it does not matter whether the log can be read.
        """
        try:
            async with asyncio.timeout(RECORD_PATIENCE_SECONDS):
                for memory in strangers:
                    rows, _ = await self._log.query(kernel_id=memory.kernel_id, limit=ROWS_OF_THE_PAST)
                    recall(memory, rows)
        except Exception as error:  # as with every defect of the log: restores go on without it
            logger.warning("The reclaim log cannot be read: %s", error or type(error).__name__)
            for memory in strangers:
                memory.recalled = memory.recalled or memory.newborn


def _first_sight(holding: Holding, newborn: bool = False) -> KernelMemory:
    return KernelMemory(
        holding=holding, phase=holding.phase, phase_since=holding.phase_since, newborn=newborn
    )
