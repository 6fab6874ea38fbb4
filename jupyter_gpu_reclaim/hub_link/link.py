"""The link of a user's server to the Hub's service. While the service is away everything here goes on as it is."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.core.policy_rules import Rule, Setting
from jupyter_gpu_reclaim.hub_link.kept_policy import KeptPolicy
from jupyter_gpu_reclaim.hub_link.orders import Orders
from jupyter_gpu_reclaim.hub_link.outbox import Outbox
from jupyter_gpu_reclaim.hub_link.sent import sent_of, signature_of
from jupyter_gpu_reclaim.hub_link.service_calls import ServiceAway, ServiceCalls, ServiceRefused
from jupyter_gpu_reclaim.ports import Clock, LogUnavailable
from jupyter_gpu_reclaim.reclaim_log.worker import TookTooLong
from jupyter_gpu_reclaim.reconciler import Reconciler, Status

logger = logging.getLogger(__name__)

PUSH_SECONDS, AGAIN_SECONDS = 1.0, 10.0
"""A changed status is pushed no more often than the one, an unchanged one as often as the other, or a little more."""
SPREAD = (0.8, 1.0)
"""Pauses are shortened by chance: servers that all come back at once, after a restart, do not stay in step."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
PRESSURE_LIVES_SECONDS = 60.0
"""What others wait for is forgotten when the service has been away for so long."""
LEAVE_SECONDS = 2.0


class HubLink:
    """`see` is a listener for `Reconciler.on_change`, `body` makes a status as JSON; `node` is this machine's name.

    Belongs to the event loop.
    """

    def __init__(
        self,
        calls: ServiceCalls,
        outbox: Outbox,
        kept: KeptPolicy,
        clock: Clock,
        body: Callable[[Status], Mapping[str, Any]],
        node: str,
    ) -> None:
        self._calls = calls
        self._outbox = outbox
        self._kept = kept
        self._clock = clock
        self._body = body
        self._node = node
        self._reconciler: Reconciler | None = None
        self._orders: Orders | None = None
        self._status: Status | None = None
        self._waiting: dict[str, int] = {}
        self._told: Any = None  # what others must hear of soon, as it was pushed last
        self._changed, self._urgent, self._pushed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard_at: float | None = None
        self._tasks: list[asyncio.Task] = []
        self.pressure: Mapping[str, int] = {}
        """Bytes per GPU that others wait for, by the service's word."""
        self.problem: str | None = None
        """Why the service was not reached the last time; None: it was."""

    async def start(
        self, reconciler: Reconciler, recent: Callable[[], Awaitable[Sequence[Transition]]]
    ) -> None:
        """Put the kept policy into force and begin. `recent()` gives rows that the service may have missed."""
        self._reconciler, self._orders = reconciler, Orders(reconciler)
        await asyncio.to_thread(self._kept.load)
        self._apply()
        self._tasks.append(asyncio.create_task(self._catch_up(recent), name="hub catch up"))
        for work in (self._push_statuses, self._push_rows, self._hear):
            self._tasks.append(asyncio.create_task(self._forever(work), name=f"hub {work.__name__}"))

    async def stop(self) -> None:
        """Say goodbye, in bounded time. What waits to be pushed is there for the next server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError, ServiceAway, ServiceRefused, OSError, TookTooLong):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._push_some_rows()
                await self._calls.leave()
        self._calls.close()
        await self._outbox.close()

    def see(self, status: Status, rows: tuple[Transition, ...]) -> None:
        """Take in what a tick found."""
        self._outbox.put(rows)
        self._status = status
        self._forget_old_pressure()
        self._apply()
        if signature_of(status) != self._told:
            self._changed.set()

    def publish(self, waiting: Mapping[str, int]) -> None:
        """What restores wait for here in vain; the service hears of it at once. May be called in a thread."""
        self._waiting = dict(waiting)
        self._loop.call_soon_threadsafe(self._urgent.set)

    def shown(self) -> dict[str, Any]:
        """What the server's status says of the Hub: the rule that holds, what is locked, what was ordered."""
        now = self._kept.now
        return {
            "connected": self._heard_at is not None and self.problem is None,
            "problem": self.problem or self._outbox.problem,
            "rule": None if now.rule is None else _named(now.rule),
            "settings": _shown(now.settings),
            "kernelspecs": [
                {
                    "kernelspecs": list(rule.match.kernelspecs),
                    "rule": _named(rule),
                    "settings": _shown(settings),
                }
                for rule, settings in now.kernelspecs
            ],
            "rows_waiting": len(self._outbox),
            "orders": list(self._orders.shown) if self._orders is not None else [],
        }

    # -- out --------------------------------------------------------------------------------------------------------

    async def _catch_up(self, recent: Callable[[], Awaitable[Sequence[Transition]]]) -> None:
        await self._outbox.open()
        self._outbox.put(await recent())

    async def _push_statuses(self) -> None:
        while True:
            status = self._status
            self._changed.clear()
            self._urgent.clear()
            if status is not None and status.snapshot is not None:
                self._told = signature_of(status)
                await self._calls.put_status(
                    self._node, sent_of(self._body(status), status.policy), self._waiting
                )
                self._reached()
                self._pushed.set()
                await _any(
                    random.uniform(*SPREAD) * AGAIN_SECONDS - PUSH_SECONDS, self._changed, self._urgent
                )
            await _any(PUSH_SECONDS, self._urgent)

    async def _push_rows(self) -> None:
        while True:
            self._outbox.filled.clear()
            while await self._push_some_rows():
                self._reached()
            await self._outbox.filled.wait()

    async def _push_some_rows(self) -> bool:
        """Whether there were any."""
        rows, number = await self._outbox.oldest()
        if not rows:
            return False
        try:
            refused = await self._calls.push_rows(rows)
        except ServiceRefused:
            refused = [await self._push_one(row) for row in rows] if len(rows) > 1 else [rows[0]]
        for row in filter(None, refused):
            logger.warning(
                "The Hub's service does not take a row of the log; this server's own has it: %s", row
            )
        await self._outbox.taken(number)
        return True

    async def _push_one(self, row: Any) -> Any:
        """The row if it is refused; None: it was taken. One that is refused must not keep the others back."""
        try:
            refused = await self._calls.push_rows([row])
        except ServiceRefused as error:
            return {"id": row.get("id"), "message": str(error)}
        return refused[0] if refused else None

    # -- in ---------------------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        await self._pushed.wait()  # rules may ask which GPUs are here
        version = None
        while True:
            news = await self._calls.news(version)
            self._reached()
            version = news["version"]
            await self._take_policy(news["policy"])
            pressure = {str(uuid): int(count) for uuid, count in news["pressure"].items()}
            if pressure != self.pressure:
                self.pressure = pressure
                self._reconciler.wake()
            for order in news["orders"]:
                answer = await self._orders.answer(order)
                with suppress(ServiceRefused):  # it was answered before, or too late
                    await self._calls.answer(order["id"], answer)

    async def _take_policy(self, sent: Any) -> None:
        try:
            self._kept.take(sent)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("The Hub's policy is not understood, and the last one holds: %s", error)
            return
        self._apply()
        try:
            await asyncio.to_thread(self._kept.keep, sent)
        except OSError as error:
            logger.warning("The Hub's policy cannot be kept on disk: %s", error)

    def _apply(self) -> None:
        policy = self._kept.policy(self._clock.now())
        if policy != self._reconciler.policy:
            self._reconciler.policy = policy
            self._reconciler.wake()

    # -- the service ------------------------------------------------------------------------------------------------

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it again after a pause, longer each time that the service stays away."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            begun = self._loop.time()
            try:
                await work()
            except (ServiceAway, ServiceRefused, OSError, TookTooLong) as error:
                self._away(str(error) or type(error).__name__)
            except Exception:
                logger.exception("The link to the Hub's GPU service failed; it is tried again")
            if self._loop.time() - begun > 2 * pause:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(random.uniform(*SPREAD) * pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _reached(self) -> None:
        self._heard_at = self._loop.time()
        if self.problem is not None:
            logger.info("The Hub's GPU service is there again.")
        self.problem = None

    def _away(self, problem: str) -> None:
        if self.problem is None:
            logger.warning("%s This server works alone until it does.", problem)
        self.problem = problem

    def _forget_old_pressure(self) -> None:
        if self.pressure and self._loop.time() - (self._heard_at or 0.0) > PRESSURE_LIVES_SECONDS:
            self.pressure = {}


async def recent_rows(query: Callable[..., Awaitable[Any]], now: datetime) -> list[Transition]:
    """Rows that a server which was killed may not have put into the outbox, oldest first; [] if none can be read."""
    try:
        rows, _ = await query(since=now - timedelta(days=1), limit=200)
    except LogUnavailable:
        return []
    return rows[::-1]


def _named(rule: Rule) -> dict[str, str]:
    return {"name": rule.name, "where": rule.where}


def _shown(settings: Mapping[str, Setting]) -> dict[str, Any]:
    return {
        name: {"value": made.value, "by": made.by, "locked": made.locked} for name, made in settings.items()
    }


async def _any(seconds: float, *events: asyncio.Event) -> None:
    """Wait until one of these is set, for so long at most."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
