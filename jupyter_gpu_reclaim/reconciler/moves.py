"""The acts: one task per move, so that a slow one blocks neither the loop nor another kernel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from uuid import uuid4

from jupyter_gpu_reclaim.core.alarms import Alarm
from jupyter_gpu_reclaim.core.explain import human_bytes
from jupyter_gpu_reclaim.core.model import (
    Done,
    Event,
    Failed,
    Outcome,
    Phase,
    Policy,
    Reason,
    Reclaim,
    Refused,
    Transition,
)
from jupyter_gpu_reclaim.core.phase import advance
from jupyter_gpu_reclaim.ports import Clock, KernelControl
from jupyter_gpu_reclaim.reconciler import answers
from jupyter_gpu_reclaim.reconciler.journal import RESTORE_PATIENCE_SECONDS, Journal
from jupyter_gpu_reclaim.reconciler.memory import KernelMemory
from jupyter_gpu_reclaim.reconciler.neighbours import Neighbours

logger = logging.getLogger(__name__)

_SPILLED = "{} of it lie on disk, since host memory had no room for all."
_NO_INTENT = "The intent could not be written to the log, so nothing was moved."
_RECLAIM_EVENTS = (Event.RECLAIM_DONE, Event.RECLAIM_REFUSED, Event.RECLAIM_FAILED)
_RESTORE_EVENTS = (Event.RESTORE_DONE, Event.RESTORE_REFUSED, Event.RESTORE_FAILED)


class Moves:
    """Intent, act, outcome: for each kernel one after the other, for several kernels at once."""

    def __init__(
        self,
        kernels: KernelControl,
        journal: Journal,
        clock: Clock,
        neighbours: Neighbours,
        done: Callable[[], None],
    ) -> None:
        self._kernels = kernels
        self._journal = journal
        self._clock = clock
        self._neighbours = neighbours
        self._done = done  # called after every outcome
        self._tasks: dict[asyncio.Task, str] = {}
        self._admitting: set[str] = set()  # kernels whose code is being told to go ahead
        self._last_row_at: datetime | None = None
        self.simulated_gpus: frozenset[str] = frozenset()
        self.driver: str | None = None  # its version, as it was last seen

    # -- rows -------------------------------------------------------------------------------------------------------

    def happened(self, memory: KernelMemory, event: Event, **facts: object) -> Transition:
        """Take the kernel through `event`: its phase moves now, and the row that says so is returned, unwritten.

        No two rows are of one instant, so that their order can always be told from them.
        """
        now = self._next_instant()
        after = advance(memory.phase, event)
        if after is not memory.phase:
            came_to_nothing = event in (Event.RECLAIM_REFUSED, Event.RECLAIM_FAILED)
            memory.phase, memory.phase_since = after, memory.resident_since if came_to_nothing else now
            memory.touched = True
        seen = memory.holding
        away = after in (Phase.RECLAIMED, Phase.RESTORING)
        row = {
            "footprint": dict(memory.needed if away and memory.needed else seen.footprint),
            "mechanism": seen.mechanism,
            "framework": seen.framework,
            "driver": self.driver,
            "episode_id": memory.episode_id,
            "simulated": any(uuid in self.simulated_gpus for uuid in (*seen.footprint, *memory.needed)),
        }
        return Transition(
            id=str(uuid4()),
            at=now,
            kernel_id=memory.kernel_id,
            event=event,
            phase=after,
            label=seen.label,
            owner=seen.owner,
            **(row | facts),
        )

    def _next_instant(self) -> datetime:
        now = self._clock.now()
        if self._last_row_at is not None and now <= self._last_row_at:
            now = self._last_row_at + timedelta(microseconds=1)
        self._last_row_at = now
        return now

    def clear(self, alarm: Alarm, actor: str) -> None:
        """Write down that `actor` trusts again what the alarm is about, whose kernel may be long gone."""
        cleared = Transition(
            id=str(uuid4()),
            at=self._next_instant(),
            kernel_id=alarm.kernel_id,
            event=Event.ALARM_CLEARED,
            phase=alarm.phase,
            label=alarm.label,
            mechanism=alarm.mechanism,
            framework=alarm.framework,
            driver=alarm.driver,
            footprint={alarm.gpu: 0},
            detail=f"Alarm {alarm.id} was cleared.",
            actor=actor,
        )
        self._journal.note(cleared)

    def note(self, memory: KernelMemory, event: Event, **facts: object) -> None:
        """`happened()`, written as soon as the log can."""
        if event is Event.RECLAIM_DONE and memory.episode_id is None:
            memory.episode_id = str(uuid4())  # found reclaimed, and the log knows nothing of it
        self._journal.note(self.happened(memory, event, **facts))

    # -- acts -------------------------------------------------------------------------------------------------------

    def reclaim(self, memory: KernelMemory, decision: Reclaim, policy: Policy, actor: str = "") -> None:
        """Begin to move the kernel's bytes to the host, which has promised memory (and disk) for its footprint."""
        holding = memory.holding
        host_bytes = max(holding.footprint_bytes, holding.host_bytes) - decision.spill_bytes
        memory.episode_id, memory.resident_since = str(uuid4()), memory.phase_since
        row = self.happened(memory, Event.RECLAIM_STARTED, reason=decision.reason, actor=actor)

        async def act() -> Outcome:
            if not await self._journal.intend(row):
                return Refused(Reason.LOG_UNAVAILABLE, f"{_NO_INTENT} {self._journal.problem}")
            return await self._kernels.suspend(memory.kernel_id, host_bytes, decision.spill_bytes)

        self._start(memory, self._move(memory, act, policy, _RECLAIM_EVENTS), "reclaim")

    def propose(self, memory: KernelMemory, decision: Reclaim) -> None:
        """In a dry run: write down, once an idle spell, what would have been reclaimed."""
        spell = memory.holding.last_active_at
        if memory.proposed_for != spell:
            memory.proposed_for = spell
            self.note(memory, Event.RECLAIM_PROPOSED, reason=decision.reason, episode_id=None)

    def restore(self, memory: KernelMemory, reason: Reason, policy: Policy, actor: str = "") -> None:
        """Begin to bring the kernel's bytes back. The log is told first, but cannot hold this up for long.

        It is refused with NO_ROOM if under the lock of its GPUs the room turns out to be gone.
        """
        memory.restored_early = reason is Reason.PREFETCH
        row = self.happened(memory, Event.RESTORE_STARTED, reason=reason, actor=actor)

        async def act() -> Outcome:
            written = self._journal.recording(row)
            async with self._neighbours.claimed(memory.needed or memory.holding.footprint) as no_room:
                await asyncio.wait([written], timeout=RESTORE_PATIENCE_SECONDS)
                if no_room is not None:
                    return Refused(Reason.NO_ROOM, no_room)
                return await self._kernels.resume(memory.kernel_id)

        self._start(memory, self._move(memory, act, policy, _RESTORE_EVENTS), "restore")

    def admit(self, memory: KernelMemory) -> None:
        """Tell code that waits inside the kernel to go ahead; once, however long the word takes to get there."""
        memory.admit(self._clock.now())
        if memory.kernel_id not in self._admitting:
            self._admitting.add(memory.kernel_id)
            self._track(self._admit(memory), memory.kernel_id, "admit")

    async def _admit(self, memory: KernelMemory) -> None:
        try:
            await answers.admit(memory, self._kernels, self._neighbours)
        finally:
            self._admitting.discard(memory.kernel_id)

    def end_wait(self, memory: KernelMemory, policy: Policy) -> None:
        """End the cells that have waited for room or a place for too long; the kernel's data stays where it is."""
        reason, message = answers.given_up(memory, policy)
        self.note(memory, Event.WAIT_ENDED, reason=reason, detail=message)
        memory.give_up_waiting()
        self._track(answers.end_wait(memory.kernel_id, message, self._kernels), memory.kernel_id, "end wait")

    def forget(self, kernel_id: str) -> None:
        """The kernel is gone: nothing waits for its moves any more."""
        for task, owner in self._tasks.items():
            if owner == kernel_id:
                task.cancel()

    async def ended(self) -> None:
        """Wait for the moves under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self, timeout: float) -> None:
        """Let moves under way end within `timeout` seconds; give up waiting for the others (their agents go on)."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # -- one move ---------------------------------------------------------------------------------------------------

    async def _move(
        self,
        memory: KernelMemory,
        act: Callable[[], Awaitable[Outcome]],
        policy: Policy,
        events: tuple[Event, Event, Event],
    ) -> None:
        was = memory.phase
        try:
            outcome = await _outcome(act, memory.kernel_id)
        finally:
            memory.moving = False
        row = self._conclude(memory, outcome, events)
        if isinstance(outcome, Done):
            memory.rested()
        else:
            memory.rest(outcome, was, policy, self._clock.now())
        self._done()
        await self._journal.record(row)
        if isinstance(outcome, Failed) and outcome.damaged_gpu is not None:
            of_gpu = {outcome.damaged_gpu: row.footprint.get(outcome.damaged_gpu, 0)}
            self.note(
                memory,
                Event.ALARM_RAISED,
                reason=Reason.COPY_DAMAGED,
                footprint=of_gpu,
                detail=outcome.error,
            )

    def _conclude(
        self, memory: KernelMemory, outcome: Outcome, events: tuple[Event, Event, Event]
    ) -> Transition:
        done, refused, failed = events
        if isinstance(outcome, Done):
            memory.needed = dict(outcome.needed_bytes) or memory.needed or dict(memory.holding.footprint)
            return self.happened(
                memory,
                done,
                moved_bytes=outcome.moved_bytes,
                freed_bytes=dict(outcome.freed_bytes),
                unmovable=dict(outcome.unmovable),
                took=outcome.took,
                detail=_SPILLED.format(human_bytes(outcome.spilled_bytes)) if outcome.spilled_bytes else "",
            )
        if isinstance(outcome, Refused):
            return self.happened(memory, refused, reason=outcome.reason, detail=outcome.detail)
        return self.happened(memory, failed if outcome.memory_intact else Event.LOST, detail=outcome.error)

    def _start(self, memory: KernelMemory, move: Awaitable[None], name: str) -> None:
        memory.moving = True
        self._track(move, memory.kernel_id, name)

    def _track(self, work: Awaitable[None], kernel_id: str, name: str) -> None:
        task = asyncio.create_task(work, name=f"{name} {kernel_id}")
        self._tasks[task] = kernel_id
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s ended with a defect of ours", task.get_name(), exc_info=task.exception())


async def _outcome(act: Callable[[], Awaitable[Outcome]], kernel_id: str) -> Outcome:
    try:
        return await act()
    except (
        Exception
    ) as error:  # the port promises never to raise; if it does, the agent's word settles the phase
        logger.exception("Moving kernel %s raised instead of failing", kernel_id)
        return Failed(f"{type(error).__name__}: {error}", memory_intact=True)
