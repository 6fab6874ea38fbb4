"""What the service keeps beside the log, in the log's database: servers as last seen, orders, overrides.

Every call is made in the log's thread and answers in bounded time, or raises `LogUnavailable`. Listings are paged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from jupyter_gpu_reclaim.hub.records import Act, Order, Override, SeenServer
from jupyter_gpu_reclaim.hub.tables import HUB, orders, overrides, servers
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog, schema
from jupyter_gpu_reclaim.reclaim_log.database import Database, in_parts

MOST_OPEN_ORDERS = 100
"""Of one server, given to it at a time; the rest follow as those are answered."""

STATUSES_AT_ONCE = 20  # some KiB each


class HubStore:
    """The service's own tables, through the log whose database they lie in."""

    def __init__(self, log: SqlReclaimLog) -> None:
        self._log = log

    async def open(self) -> None:
        """Bring the tables to their newest revision. Raises `LogUnavailable`."""
        await self._log.run("write", _migrate)

    # -- servers ----------------------------------------------------------------------------------------------------

    async def put_servers(self, seen: Sequence[SeenServer]) -> None:
        """Each takes the place of what was known of the same server. Raises `LogUnavailable`."""
        if seen:
            await self._log.run("write", lambda database: _put_servers(database, seen))

    async def touch_servers(self, seen: Sequence[SeenServer]) -> None:
        """Only when these were seen; their status is as it was. Raises `LogUnavailable`."""
        if seen:
            await self._log.run("write", lambda database: _touch_servers(database, seen))

    async def servers(
        self,
        *,
        user: str | None = None,
        seen_since: datetime | None = None,
        after: tuple[str, str] | None = None,
        limit: int = 50,
    ) -> list[SeenServer]:
        """At most `limit` servers without their status, by (user, server), those behind `after`."""
        columns = servers.c["user", "server", "node", "seen_at"]
        found = select(*columns).order_by(servers.c.user, servers.c.server).limit(limit)
        if user is not None:
            found = found.where(servers.c.user == user)
        if seen_since is not None:
            found = found.where(servers.c.seen_at >= seen_since)
        if after is not None:
            types = [servers.c.user.type, servers.c.server.type]
            found = found.where(tuple_(servers.c.user, servers.c.server) > tuple_(*after, types=types))
        return [SeenServer(**row._mapping) for row in await self._all(found)]

    async def server(self, user: str, server: str) -> SeenServer | None:
        """One server with its status; None: never seen."""
        rows = await self._all(select(servers).where(servers.c.user == user, servers.c.server == server))
        return SeenServer(**rows[0]._mapping) if rows else None

    async def statuses(self, seen_since: datetime, after: tuple[str, str] | None) -> list[SeenServer]:
        """A page of servers with their status, by (user, server): what the service has to know again after a start."""
        found = select(servers).where(servers.c.seen_at >= seen_since)
        if after is not None:
            types = [servers.c.user.type, servers.c.server.type]
            found = found.where(tuple_(servers.c.user, servers.c.server) > tuple_(*after, types=types))
        rows = await self._all(found.order_by(servers.c.user, servers.c.server).limit(100))
        return [SeenServer(**row._mapping) for row in rows]

    async def count_servers(self, seen_since: datetime) -> int:
        """How many were seen since then."""
        return (
            await self._all(select(func.count()).select_from(servers).where(servers.c.seen_at >= seen_since))
        )[0][0]

    async def forget_servers(self, before: datetime) -> None:
        """Delete what was not seen since; their rows in the log stay."""
        await self._do(delete(servers).where(servers.c.seen_at < before))

    # -- orders -----------------------------------------------------------------------------------------------------

    async def place_order(self, order: Order) -> None:
        """Keep an order for its server to fetch. Raises `LogUnavailable`."""
        await self._do(insert(orders).values(**asdict(order)))

    async def open_orders(self, user: str, server: str) -> list[Order]:
        """Those of one server that it has not answered, oldest first."""
        found = select(orders).where(
            orders.c.user == user, orders.c.server == server, orders.c.answered_at.is_(None)
        )
        return _orders(await self._all(found.order_by(orders.c.sequence).limit(MOST_OPEN_ORDERS)))

    async def servers_with_orders(self) -> set[tuple[str, str]]:
        """Who has an order that was not answered."""
        found = select(orders.c.user, orders.c.server).where(orders.c.answered_at.is_(None)).distinct()
        return {(row.user, row.server) for row in await self._all(found)}

    async def answer_order(self, order_id: str, user: str, server: str, answer: str, at: datetime) -> bool:
        """Keep what that server said to the order. False: it has no such order, or it was answered before."""
        mine = and_(orders.c.id == order_id, orders.c.user == user, orders.c.server == server)
        return await self._do(
            update(orders)
            .where(mine, orders.c.answered_at.is_(None))
            .values(answer=answer, answered_at=at)
        ) > 0  # fmt: skip

    async def expire_orders(self, before: datetime, answer: str, at: datetime) -> int:
        """Give this answer to all that were made before and had none. How many."""
        return await self._do(
            update(orders)
            .where(orders.c.answered_at.is_(None), orders.c.made_at < before)
            .values(answer=answer, answered_at=at)
        )

    async def orders(
        self, *, user: str | None = None, before: int | None = None, limit: int = 50
    ) -> tuple[list[Order], int | None]:
        """Newest first, and what to give as `before` for the next page; None at the end."""
        found = select(orders).order_by(orders.c.sequence.desc()).limit(limit + 1)
        if user is not None:
            found = found.where(orders.c.user == user)
        if before is not None:
            found = found.where(orders.c.sequence < before)
        rows = await self._all(found)
        return _orders(rows[:limit]), rows[limit - 1].sequence if len(rows) > limit else None

    # -- overrides --------------------------------------------------------------------------------------------------

    async def add_override(
        self, rule: Mapping[str, Any], note: str, actor: str, at: datetime, until: datetime | None
    ) -> int:
        """Keep a rule set in the page; its number. Raises `LogUnavailable`."""
        values = {"rule": dict(rule), "note": note, "actor": actor, "made_at": at, "until": until}

        def work(database: Database) -> int:
            with database.writing() as connection:
                return connection.scalar(insert(overrides).values(values).returning(overrides.c.sequence))

        return await self._log.run("write", work)

    async def end_override(self, number: int, actor: str, at: datetime) -> bool:
        """End it now. False: there is no such override, or it has ended."""
        standing = and_(
            overrides.c.ended_at.is_(None), or_(overrides.c.until.is_(None), overrides.c.until > at)
        )
        return await self._do(
            update(overrides)
            .where(overrides.c.sequence == number, standing)
            .values(ended_at=at, ended_by=actor)
        ) > 0  # fmt: skip

    async def standing_overrides(self, at: datetime) -> list[Override]:
        """Those that hold at that instant, the newest first."""
        holds = or_(overrides.c.until.is_(None), overrides.c.until > at)
        found = select(overrides).where(overrides.c.ended_at.is_(None), holds)
        return _overrides(await self._all(found.order_by(overrides.c.sequence.desc())))

    async def overrides(
        self, *, before: int | None = None, limit: int = 50
    ) -> tuple[list[Override], int | None]:
        """All there ever were, newest first, and what to give as `before` for the next page; None at the end."""
        found = select(overrides).order_by(overrides.c.sequence.desc()).limit(limit + 1)
        if before is not None:
            found = found.where(overrides.c.sequence < before)
        rows = await self._all(found)
        return _overrides(rows[:limit]), rows[limit - 1].sequence if len(rows) > limit else None

    # -- the database -----------------------------------------------------------------------------------------------

    async def _all(self, found: Select) -> Sequence[Row]:
        def work(database: Database) -> Sequence[Row]:
            with database.reading() as connection:
                return connection.execute(found).all()

        return await self._log.run("read", work)

    async def _do(self, statement: Any) -> int:
        """How many rows it changed."""

        def work(database: Database) -> int:
            with database.writing() as connection:
                return connection.execute(statement).rowcount

        return await self._log.run("write", work)


def _migrate(database: Database) -> None:
    with database.reading() as connection:
        if schema.is_current(connection, HUB):
            return
    with database.writing() as connection:
        schema.upgrade(connection, history=HUB)


def _put_servers(database: Database, seen: Sequence[SeenServer]) -> None:
    rows = [
        {
            "user": one.user,
            "server": one.server,
            "node": one.node,
            "seen_at": one.seen_at,
            "status": dict(one.status),
        }
        for one in sorted(seen, key=_whose)
    ]
    with database.writing() as connection:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        new = dialect.insert(servers)
        latest = {name: new.excluded[name] for name in ("node", "seen_at", "status")}
        put = new.on_conflict_do_update(index_elements=[servers.c.user, servers.c.server], set_=latest)
        for some in in_parts(rows, STATUSES_AT_ONCE):
            connection.execute(put, some)


def _touch_servers(database: Database, seen: Sequence[SeenServer]) -> None:
    with database.writing() as connection:
        for at in {one.seen_at for one in seen}:
            keys = [_whose(one) for one in seen if one.seen_at == at]
            for start in range(0, len(keys), 100):
                these = tuple_(servers.c.user, servers.c.server).in_(keys[start : start + 100])
                connection.execute(update(servers).where(these).values(seen_at=at))


def _whose(seen: SeenServer) -> tuple[str, str]:
    return seen.user, seen.server


def _orders(rows: Sequence[Row]) -> list[Order]:
    return [Order(**{**_without_sequence(row), "act": Act(row.act)}) for row in rows]


def _overrides(rows: Sequence[Row]) -> list[Override]:
    return [Override(number=row.sequence, **_without_sequence(row)) for row in rows]


def _without_sequence(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "sequence"}
