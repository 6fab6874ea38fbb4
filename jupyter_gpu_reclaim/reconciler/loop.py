"""The loop itself. It runs on the server's event loop and blocks it nowhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.alarms import laid_over
from jupyter_gpu_reclaim.core.model import (
    Admit,
    Decision,
    Event,
    Keep,
    Policy,
    Reason,
    Reclaim,
    Restore,
    Snapshot,
    Transition,
    Wait,
    Warn,
)
from jupyter_gpu_reclaim.core.priorities import prioritised
from jupyter_gpu_reclaim.core.waits import unmet
from jupyter_gpu_reclaim.ports import Clock, KernelControl, Observer, PressureBoard, ReclaimLog
from jupyter_gpu_reclaim.reconciler.alarms import Alarms
from jupyter_gpu_reclaim.reconciler.book import Book
from jupyter_gpu_reclaim.reconciler.history import History
from jupyter_gpu_reclaim.reconciler.journal import RECORD_PATIENCE_SECONDS, Journal
from jupyter_gpu_reclaim.reconciler.memory import KernelMemory
from jupyter_gpu_reclaim.reconciler.moves import Moves
from jupyter_gpu_reclaim.reconciler.neighbours import Neighbours
from jupyter_gpu_reclaim.reconciler.pulse import Pulse
from jupyter_gpu_reclaim.reconciler.sight import Sight
from jupyter_gpu_reclaim.reconciler.status import Status, status_of
from jupyter_gpu_reclaim.reconciler.stillness import Stillness
from jupyter_gpu_reclaim.reconciler.wishes import Act, NotObserved, Wish, Wishes, check_pin

logger = logging.getLogger(__name__)

Listener = Callable[[Status, tuple[Transition, ...]], None]


class Reconciler:
    """Keeps what kernels hold on GPUs in line with the policy and with what people asked for.

    All methods belong to the event loop's thread. `tick()` may be called without `run()`, which is how tests and
    replays drive it.
    """

    def __init__(
        self,
        observer: Observer,
        kernels: KernelControl,
        log: ReclaimLog,
        clock: Clock,
        policy: Policy,
        *,
        tick_seconds: float = 5.0,
        board: PressureBoard | None = None,
    ) -> None:
        self.policy = policy
        self._clock = clock
        self._pulse = Pulse(tick_seconds)
        self._alarms = Alarms(log)
        self._history = History()
        self._neighbours = Neighbours(board, observer, clock)
        self._sight = Sight(observer, self._neighbours)
        self._stillness = Stillness()
        self._journal = Journal(log, self._on_row)
        self._moves = Moves(kernels, self._journal, clock, self._neighbours, self.wake)
        self._wishes = Wishes()
        self._book = Book(log, self._moves)
        self._status = Status(policy=policy)
        self._rows: list[Transition] = []  # not yet told to the listeners
        self._listeners: list[Listener] = []
        self._ticking = asyncio.Lock()
        self._running: asyncio.Task | None = None

    # -- for handlers -----------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """What the last tick found and decided."""
        return self._status

    def wake(self) -> None:
        """Something has changed: tick now rather than at the end of the pause."""
        self._pulse.wake()

    def on_change(self, listener: Listener) -> Callable[[], None]:
        """Have `listener(status, rows)` called after every tick, rows being the transitions since the last call.

        Returns a function that ends it. A listener that raises is logged.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    async def wish_reclaim(self, kernel_id: str, actor: str) -> Decision:
        """Ask for a reclaim. Returns what the next tick decided: `Reclaim` or `Keep(TURN)`, or else it is refused.

        It goes over the pin (and then ends it), the cooldown, the smallest size and idle times, never over work. A wish
        that was refused is forgotten, so that it does not come true hours later. Raises `UnknownKernel`, `NotObserved`.
        """
        return await self._wish(kernel_id, Act.RECLAIM, actor)

    async def wish_restore(self, kernel_id: str, actor: str) -> Decision:
        """Ask for a restore. Returns what the next tick decided; after `Wait` it stays in the queue on its own.

        Raises `UnknownKernel`, `NotObserved`.
        """
        return await self._wish(kernel_id, Act.RESTORE, actor)

    async def wish_prefetch(self, kernel_id: str, actor: str) -> Decision:
        """Ask for an early restore, if it costs nobody anything. Returns what the next tick decided.

        What is refused is forgotten. Raises `UnknownKernel`, `NotObserved`.
        """
        return await self._wish(kernel_id, Act.PREFETCH, actor)

    async def pin(self, kernel_id: str, until: datetime, actor: str) -> None:
        """Keep the kernel from being reclaimed until then. Raises `InvalidPin`, `UnknownKernel`."""
        check_pin(until, self._book.policy_of(kernel_id, self.policy), self._clock.now())
        memory = self._book.known(kernel_id)
        memory.pinned_until, memory.warned_at = until, None
        self._moves.note(memory, Event.PINNED, reason=Reason.PINNED, actor=actor, detail=until.isoformat())
        self.wake()

    async def unpin(self, kernel_id: str, actor: str) -> None:
        """End the kernel's pin, if it has one. Raises `UnknownKernel`."""
        self._unpin(self._book.known(kernel_id), actor, "")
        self.wake()

    async def clear_alarm(self, alarm_id: str, actor: str) -> None:
        """Trust again what the alarm is about. Raises `UnknownAlarm`."""
        self._moves.clear(self._alarms.known(alarm_id), actor)
        self.wake()

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tick until `stop()`. Nothing that a port raises ends it."""
        self._running = asyncio.current_task()
        while not self._pulse.stopping:
            self._pulse.begin()
            try:
                await self.tick()
                failed = self._sight.problem is not None
            except Exception:
                logger.exception("A tick failed; nothing was moved by it, the next one looks again")
                failed = True
            await self._pulse.pause(failed, self._due_in)

    async def stop(self, timeout: float = 10.0) -> None:
        """End the loop. Moves under way get `timeout` seconds to end; reclaimed kernels stay as they are."""
        end = asyncio.get_running_loop().time() + timeout
        self._pulse.stop()
        if self._running is not None and self._running is not asyncio.current_task():
            _, late = await asyncio.wait([self._running], timeout=timeout)
            for task in late:
                task.cancel()
        self._wishes.refuse_all(NotObserved("The server is stopping; nothing was changed."))
        await self._moves.close(max(0.0, end - asyncio.get_running_loop().time()))
        await self._neighbours.publish({}, None)
        await self._journal.close(RECORD_PATIENCE_SECONDS)
        self._tell()

    async def quiet(self) -> None:
        """Wait until no move is under way and the log is written as far as it can be."""
        await self._moves.ended()
        await self._journal.flushed()

    async def tick(self) -> None:
        """Look, decide, begin the acts. Returns before they end. A failed look raises nothing: `status()` says so."""
        async with self._ticking:
            self._journal.kick()
            wishes = self._wishes.standing()
            snapshot = await self._sight.look()
            try:
                if snapshot is None:
                    self._status = replace(self._status, policy=self.policy, problems=self._problems(None))
                else:
                    await self._alarms.recall()
                    await self._book.take_in(snapshot)
                    await asyncio.sleep(0)  # with very many kernels the server needs to breathe
                    judged, decisions = self._decide_and_act(snapshot, wishes)
                    await asyncio.sleep(0)
                    self._show(judged, decisions, wishes)
                    await self._neighbours.publish(*unmet(judged, decisions))
            finally:
                why = self._sight.problem or "The kernels could not be judged; the server's log says why."
                self._wishes.refuse_unanswered(wishes, why)
            self._tell()

    # -- decide and act ---------------------------------------------------------------------------------------------

    def _decide_and_act(
        self, seen: Snapshot, wishes: Mapping[str, Wish]
    ) -> tuple[Snapshot, dict[str, Decision]]:
        overlaid = laid_over(self._book.overlaid(seen, wishes), self._alarms.standing)
        snapshot = prioritised(overlaid, self.policy)
        decided = self._history.decide(snapshot, self.policy)
        decisions = {decision.kernel_id: self._writable(decision) for decision in decided}
        for decision in decisions.values():
            self._act(decision, wishes.get(decision.kernel_id), snapshot.taken_at)
        return snapshot, decisions

    def _show(
        self, snapshot: Snapshot, decisions: Mapping[str, Decision], wishes: Mapping[str, Wish]
    ) -> None:
        problems, standing = self._problems(snapshot), self._alarms.standing
        self._status = status_of(self.policy, snapshot, decisions, self._history, problems, standing)
        self._stillness.see(snapshot, decisions)
        for kernel_id, wish in wishes.items():
            self._wishes.answer(kernel_id, wish, decisions.get(kernel_id), self.policy)

    def _writable(self, decision: Decision) -> Decision:
        if isinstance(decision, Reclaim):
            memory = self._book[decision.kernel_id]
            if self._journal.problem is not None or not memory.recalled or not self._alarms.recalled:
                return Keep(decision.kernel_id, Reason.LOG_UNAVAILABLE)
        return decision

    def _act(self, decision: Decision, wish: Wish | None, now: datetime) -> None:
        memory = self._book[decision.kernel_id]
        asked_for = decision.reason in (Reason.REQUESTED, Reason.PREFETCH)
        actor = wish.actor if wish is not None and asked_for else ""
        if isinstance(decision, Restore):
            self._moves.restore(memory, decision.reason, self.policy, actor)
        elif isinstance(decision, Admit):
            self._moves.admit(memory)
        elif isinstance(decision, Reclaim) and self.policy.mode == "dry_run":
            self._moves.propose(memory, decision)
        elif isinstance(decision, Reclaim):
            if decision.reason is Reason.REQUESTED and memory.pinned_until is not None:
                self._unpin(memory, actor, "Ended by the request to reclaim.")
            self._moves.reclaim(memory, decision, self.policy, actor)
        elif isinstance(decision, Warn):
            memory.warned_at = now
        elif isinstance(decision, Wait):
            self._end_wait_if_due(memory, wish, now)

    def _end_wait_if_due(self, memory: KernelMemory, wish: Wish | None, now: datetime) -> None:
        limit = self.policy.restore_timeout
        if limit and wish is not None and now - wish.at >= limit:
            self._wishes.drop(memory.kernel_id, wish)
        since = memory.waited_since()
        if limit and since is not None and now - since >= limit:
            self._moves.end_wait(memory, self.policy)

    def _unpin(self, memory: KernelMemory, actor: str, detail: str) -> None:
        if memory.pinned_until is not None:
            memory.pinned_until = None
            self._moves.note(memory, Event.UNPINNED, actor=actor, detail=detail)

    # -- tell -------------------------------------------------------------------------------------------------------

    def _problems(self, snapshot: Snapshot | None) -> tuple[str, ...]:
        seen = None if snapshot is None else snapshot.gpus_problem
        found = (self._sight.problem, seen, self._journal.complaint(), self._neighbours.problem)
        return tuple(problem for problem in found if problem) + tuple(
            a.sentence for a in self._alarms.standing
        )

    def _on_row(self, row: Transition) -> None:
        self._rows.append(row)
        self._alarms.take(row)
        self._history.take(row)

    def _tell(self) -> None:
        rows, self._rows = tuple(self._rows), []
        for listener in tuple(self._listeners):
            try:
                listener(self._status, rows)
            except Exception:
                logger.exception("A listener to the reconciler raised")

    async def _wish(self, kernel_id: str, act: Act, actor: str) -> Decision:
        if self._pulse.stopping:
            raise NotObserved("The server is stopping; nothing was changed.")
        future = self._wishes.add(kernel_id, act, self._clock.now(), actor)
        self.wake()
        return await future

    def _due_in(self) -> float:
        """Seconds until the next tick: `tick_seconds`, more in a still world, less where something is due before."""
        now = self._clock.now()
        longest = timedelta(seconds=self._pulse.tick_seconds * self._stillness.ticks_a_look)
        due = min([now + longest, *self._book.due(self.policy), *self._status.due()])
        return max(0.0, (due - now).total_seconds())
