"""The fleet now: machines and their GPUs, users' servers, one server with its kernels."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any

import tornado.web

from jupyter_gpu_reclaim.core.fleet import FleetServer
from jupyter_gpu_reclaim.core.fleet_view import (
    BADGES,
    GpuCard,
    idle_holders,
    machines,
    server_rows,
    state_of,
    totals,
    waiting,
)
from jupyter_gpu_reclaim.core.policy_rules import Rule, first_fit
from jupyter_gpu_reclaim.hub.fleet import subject_of
from jupyter_gpu_reclaim.hub.pages.page import HubPage, page_of
from jupyter_gpu_reclaim.hub.pages.words import share

MACHINES, SERVERS, SHOWN = 20, 50, 10
ORDERS_OF_SERVER = 20
SORTS = ("held", "given_back", "waiting", "user")


class OverviewHandler(HubPage):
    """The whole fleet on one page: totals, who waits, who keeps most for nothing, machines with their GPUs."""

    async def get(self) -> None:
        """GET the prefix itself."""
        now, seen = self.now, list(self.visible())
        await asyncio.sleep(0)  # a thousand servers take some milliseconds: let others be answered in between
        shown, pages = page_of(machines(seen, now), self.whole("page", 1, 10**6), MACHINES)
        waits = waiting(seen, now)
        self.show(
            "overview.html",
            totals=totals(seen, now),
            waits=waits[:SHOWN],
            more_waits=max(0, len(waits) - SHOWN),
            idle=idle_holders(seen, now, SHOWN),
            machines=shown,
            page=self.whole("page", 1, 10**6),
            pages=pages,
            bar=bar,
            badges=BADGES,
        )


class ServersHandler(HubPage):
    """Users' servers as a table, a page at a time."""

    async def get(self) -> None:
        """GET servers?q=&sort=&page=."""
        sort, text = self.get_query_argument("sort", SORTS[0]), self.get_query_argument("q", "")[:200]
        if sort not in SORTS:
            raise ValueError(f"sort must be one of {', '.join(SORTS)}")
        rows = server_rows(self.visible(), self.now, sort, text)
        number = self.whole("page", 1, 10**6)
        shown, pages = page_of(rows, number, SERVERS)
        self.show(
            "servers.html",
            rows=shown,
            count=len(rows),
            page=min(number, pages),
            pages=pages,
            sort=sort,
            q=text,
            sorts=SORTS,
        )


class ServerHandler(HubPage):
    """One user's server: its kernels, what may be ordered of them and what was, and the rule that holds for it."""

    async def get(self) -> None:
        """GET server?user=&server=."""
        user, server = self.get_query_argument("user"), self.get_query_argument("server", "")
        seen = self.service.fleet.get((user, server)) if self.actor.may_see(user) else None
        if seen is None:
            raise tornado.web.HTTPError(404, "No such server was heard of lately, or it is not yours to see.")
        now, policies, subject = self.now, self.service.policies, subject_of(seen)
        orders, _ = await self.service.store.orders(user=user, limit=ORDERS_OF_SERVER)

        def rule_of(kernelspec: str | None) -> Rule | None:
            return first_fit(policies.rules, replace(subject, kernelspec=kernelspec), now, policies.zone)

        self.show(
            "server.html",
            seen=seen,
            kernels=[
                (kernel, state_of(kernel, now), rule_of(kernel.kernel_name)) for kernel in by_size(seen)
            ],
            orders=[order for order in orders if order.server == server],
            rule=rule_of(None),
            badges=BADGES,
        )


def by_size(server: FleetServer) -> list[Any]:
    """Its kernels, the largest first."""
    return sorted(server.kernels, key=lambda kernel: (-kernel.footprint_bytes, kernel.label))


def bar(card: GpuCard, now: datetime) -> list[tuple[str, str, str, str]]:
    """The parts of a GPU's bar: what it is, where it begins and how wide it is in percent, and a name for it."""
    total, begin, parts = card.gpu.total_bytes, 0, []
    for holder in card.holders:
        name = f"{holder.server.user}: {holder.kernel.label}"
        parts.append((f"kernel {holder.state}", share(begin, total), share(holder.held_bytes, total), name))
        begin += holder.held_bytes
    if card.others_bytes:
        parts.append(("others", share(begin, total), share(card.others_bytes, total), "others and contexts"))
    return parts


ROUTES = [(r"", OverviewHandler), (r"servers", ServersHandler), (r"server", ServerHandler)]
