"""The service's parts behind its addresses, and what it does by itself: rules read anew, old things forgotten."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from jupyter_gpu_reclaim.core.fleet import FleetServer
from jupyter_gpu_reclaim.core.model import Event, Phase, Transition
from jupyter_gpu_reclaim.core.policy_rules import Subject
from jupyter_gpu_reclaim.core.policy_text import rule_from
from jupyter_gpu_reclaim.core.wire import instant
from jupyter_gpu_reclaim.hub.broker import Broker
from jupyter_gpu_reclaim.hub.dry_run_process import DryRuns
from jupyter_gpu_reclaim.hub.fleet import Bells, Fleet, Key
from jupyter_gpu_reclaim.hub.ingest import RowIngest, StatusIngest
from jupyter_gpu_reclaim.hub.policies import Policies
from jupyter_gpu_reclaim.hub.records import Act, Order, SeenServer
from jupyter_gpu_reclaim.hub.store import HubStore
from jupyter_gpu_reclaim.hub.usage import FleetUsage
from jupyter_gpu_reclaim.ports import Clock, LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.retention import Retention

logger = logging.getLogger(__name__)

UPKEEP_SECONDS = 2.0
HOUSEKEEPING = timedelta(hours=1)
ORDERS_LIVE = timedelta(hours=1)
TOO_LATE = "Its server was not there to answer within an hour."


class Service:
    """What handlers may use: `log` and `store`, `fleet`, `policies`, `broker`, `bells`, `dry_runs` and `clock`."""

    def __init__(
        self, db_url: str, clock: Clock, policies: Policies, retention: Retention | None = None
    ) -> None:
        self.clock = clock
        self.log = SqlReclaimLog(db_url)
        self._behind = SqlReclaimLog(db_url)  # what nobody waits for: a thousand servers' may take a second
        self.store = HubStore(self.log)
        self.fleet = Fleet()
        self.bells = Bells()
        self.policies = policies
        self.broker = Broker(self.fleet, self.bells, clock)
        self.rows = RowIngest(self.log)
        self.statuses = StatusIngest(HubStore(self._behind))
        self.usage = FleetUsage(self.fleet, self._behind, clock)
        self.dry_runs = DryRuns(db_url, self.fleet, policies, clock)
        self.with_orders: set[Key] = set()
        self._retention = retention
        self._housekept_at: datetime | None = None
        self._upkeep: asyncio.Task | None = None

    async def start(self) -> None:
        """Open the database and begin. Raises `LogUnavailable`."""
        await self.log.open()
        await self.store.open()
        await self._behind.open()
        await self._look_again()
        self.statuses.start()
        self.broker.start()
        self.usage.start()
        self._upkeep = asyncio.create_task(self._run(), name="hub upkeep")

    async def stop(self) -> None:
        """End everything, within a bounded time. Who waits for news is answered by the connection's end."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        await self.dry_runs.stop()
        await self.broker.stop()
        await self.usage.stop()
        await self.statuses.stop()
        await self._behind.close()
        await self.log.close()

    # -- servers ----------------------------------------------------------------------------------------------------

    def heard(self, server: FleetServer, status: Mapping[str, Any]) -> None:
        """Take in what a server says of itself; it is in the database soon, and pressed on others at once."""
        self.fleet.put(self.policies.ranked(server, server.seen_at))
        self.statuses.take(
            SeenServer(
                user=server.user,
                server=server.server,
                node=server.node,
                seen_at=server.seen_at,
                status=status,
            )
        )
        self.broker.kick()

    async def news(self, subject: Subject) -> dict[str, Any]:
        """What a server has to know now: its rules, what others wait for, and what it is ordered."""
        key = subject.user, subject.server
        orders = await self.store.open_orders(*key) if key in self.with_orders else []
        return {
            "policy": self.policies.for_server(subject),
            "pressure": self.broker.pressure.get(key, {}),
            "orders": [order_to_json(order) for order in orders],
        }

    # -- administrators ---------------------------------------------------------------------------------------------

    async def give_order(
        self, key: Key, kernel_id: str, act: Act, reason: str, actor: str, until: datetime | None = None
    ) -> Order:
        """Want something of a kernel: kept, logged, and with its server within a second. Raises `LogUnavailable`."""
        seen = self.fleet.get(key)
        kernels = {} if seen is None else {kernel.kernel_id: kernel for kernel in seen.kernels}
        label = kernels[kernel_id].label if kernel_id in kernels else ""
        order = Order(
            id=str(uuid4()),
            user=key[0],
            server=key[1],
            kernel_id=kernel_id,
            label=label,
            act=act,
            reason=reason,
            actor=actor,
            made_at=self.clock.now(),
            until=until,
        )
        end = f" until {instant(until)}" if until is not None else ""
        row = self._row(Event.ORDER_GIVEN, actor, f"{act.value}{end}: {reason}")
        await self.rows.take([replace(row, kernel_id=kernel_id, owner=key[0], label=label)])
        await self.store.place_order(order)
        self.with_orders.add(key)
        self.bells.ring({key})
        return order

    async def answered(self, order_id: str, key: Key, answer: str) -> bool:
        """Keep what a server said to an order. False: it has no such order, or it was answered before."""
        kept = await self.store.answer_order(order_id, *key, answer, self.clock.now())
        if not await self.store.open_orders(*key):
            self.with_orders.discard(key)
        return kept

    async def set_override(
        self, rule: Mapping[str, Any], note: str, actor: str, until: datetime | None
    ) -> int:
        """Have this rule before all others, at once; its number. Raises `BadRule`, `LogUnavailable`."""
        rule_from(rule)
        at = self.clock.now()
        number = await self.store.add_override(rule, note, actor, at, until)
        end = f" until {instant(until)}" if until is not None else ""
        await self._changed(actor, f"Override {number} was set{end}: {json.dumps(rule)} {note}")
        return number

    async def end_override(self, number: int, actor: str) -> bool:
        """End an override now. False: there is none that stands. Raises `LogUnavailable`."""
        ended = await self.store.end_override(number, actor, self.clock.now())
        if ended:
            await self._changed(actor, f"Override {number} was ended.")
        return ended

    # -- by itself --------------------------------------------------------------------------------------------------

    async def _changed(self, actor: str, detail: str) -> None:
        await self.rows.take([self._row(Event.POLICY_CHANGED, actor, detail)])
        self.policies.override(await self.store.standing_overrides(self.clock.now()))
        self._rules_changed()

    def _rules_changed(self) -> None:
        now = self.clock.now()
        for server in tuple(self.fleet):
            self.fleet.put(self.policies.ranked(server, now))
        self.bells.ring()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_SECONDS)
            try:
                await self._look_again()
            except LogUnavailable as error:
                logger.warning("%s", error)
            except Exception:
                logger.exception("Upkeep failed; it is tried again in %g s", UPKEEP_SECONDS)

    async def _look_again(self) -> None:
        """Read rules, overrides and orders anew, so that a change by anybody counts; forget what is old."""
        now = self.clock.now()
        reloaded = await asyncio.to_thread(self.policies.reload)
        overridden = self.policies.override(await self.store.standing_overrides(now))
        if reloaded and self._housekept_at is not None:
            await self.rows.take([self._row(Event.POLICY_CHANGED, "", "The policies were read anew.")])
        if reloaded or overridden:
            self._rules_changed()
        self.with_orders = await self.store.servers_with_orders()
        self.fleet.drop_silent(now)
        self.statuses.forget(self.statuses.known() - {server.key for server in self.fleet})
        if self._housekept_at is None or now - self._housekept_at >= HOUSEKEEPING:
            self._housekept_at = now
            await self._keep_house(now)

    async def _keep_house(self, now: datetime) -> None:
        await self.store.expire_orders(now - ORDERS_LIVE, TOO_LATE, now)
        if self._retention is None:
            return
        told = await self._retention.enforce(self.log, now)
        if told is not None:
            await self.log.append([told])
        if self._retention.age is not None:
            await self.store.forget_servers(now - self._retention.age)

    def _row(self, event: Event, actor: str, detail: str) -> Transition:
        return Transition(
            id=str(uuid4()),
            at=self.clock.now(),
            kernel_id="",
            event=event,
            phase=Phase.GONE,
            actor=actor,
            detail=detail,
        )


def order_to_json(order: Order) -> dict[str, Any]:
    """An order as its server gets it."""
    return {
        "id": order.id,
        "kernel_id": order.kernel_id,
        "act": order.act.value,
        "reason": order.reason,
        "actor": order.actor,
        "made_at": instant(order.made_at),
        "until": None if order.until is None else instant(order.until),
    }


def version(news: Any) -> str:
    """A short word that changes with the news."""
    return hashlib.sha256(json.dumps(news, sort_keys=True).encode()).hexdigest()[:16]
