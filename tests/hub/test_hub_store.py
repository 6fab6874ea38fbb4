"""What the hub keeps beside the log, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from jupyter_gpu_reclaim.bench.log.postgresql import PostgresqlServer, missing
from jupyter_gpu_reclaim.hub.records import Act, Order, SeenServer
from jupyter_gpu_reclaim.hub.store import HubStore
from jupyter_gpu_reclaim.hub.tables import HUB, metadata
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresqlServer]:
    """One server for all tests here."""
    server = PostgresqlServer()
    server.start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each kind of database. PostgreSQL's is shared by the tests, which use users of their own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hub.sqlite'}"
    if missing() is not None:
        pytest.skip(f"PostgreSQL cannot be tried here: {missing()}")
    return request.getfixturevalue("postgresql").url()


@pytest.fixture
def store(jp_asyncio_loop: asyncio.AbstractEventLoop, db_url: str) -> Iterator[HubStore]:
    """The store in that database."""
    log = SqlReclaimLog(db_url)
    store = HubStore(log)
    jp_asyncio_loop.run_until_complete(store.open())
    yield store
    jp_asyncio_loop.run_until_complete(log.close())


def order(number: int, **more: object) -> Order:
    """An order to ada's default server."""
    values = {"user": "ada", "server": "", "kernel_id": "k-1", "act": Act.RECLAIM, "reason": "a class begins"}
    return Order(id=f"order-{number}", actor="root", made_at=NOON, **{**values, **more})


async def test_the_tables_are_those_the_migrations_make(store: HubStore) -> None:
    """A migrated database has exactly the tables that the code describes, and opening it again changes nothing."""

    def differences(database) -> list:
        with database.reading() as connection:
            options = {
                "version_table": HUB.version_table,
                "include_name": lambda name, kind, _: kind != "table" or name in metadata.tables,
            }
            return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    assert await store._log.run("read", differences) == []
    await store.open()


async def test_a_servers_last_word_takes_the_place_of_the_one_before(store: HubStore) -> None:
    """A server is kept once, with its newest status, whatever odd text is in it; listings are paged in order."""
    odd = {"kernels": [{"label": "a\0b\ud800'; DROP TABLE x--<script>"}]}
    first = [SeenServer(user="ada", server=name, node="n1", seen_at=NOON) for name in ("", "big", "small")]
    await store.put_servers(first)
    later = SeenServer(user="ada", server="big", node="n2", seen_at=NOON + timedelta(seconds=9), status=odd)
    await store.put_servers([later])
    assert await store.server("ada", "big") == later
    page = await store.servers(user="ada", limit=2)
    assert [one.server for one in page] == ["", "big"]
    assert [one.server for one in await store.servers(user="ada", after=("ada", "big"))] == ["small"]
    await store.touch_servers(
        [SeenServer(user="ada", server="", node="n1", seen_at=NOON + timedelta(hours=1))]
    )
    assert (await store.server("ada", "")).seen_at == NOON + timedelta(hours=1)
    assert (await store.server("ada", "big")) == later


async def test_an_order_is_answered_once_and_only_by_its_own_server(store: HubStore) -> None:
    """Somebody else's server cannot answer an order, and an answer stays as it was first given."""
    await store.place_order(order(1))
    await store.place_order(order(2, act=Act.PIN, until=NOON + timedelta(hours=1)))
    assert [one.id for one in await store.open_orders("ada", "")] == ["order-1", "order-2"]
    assert not await store.answer_order("order-1", "eve", "", "done", NOON)
    assert not await store.answer_order("order-1", "ada", "other", "done", NOON)
    assert await store.answer_order("order-1", "ada", "", "Somebody asked for it.", NOON)
    assert not await store.answer_order("order-1", "ada", "", "again", NOON)
    assert [one.id for one in await store.open_orders("ada", "")] == ["order-2"]
    assert ("ada", "") in await store.servers_with_orders()
    assert await store.expire_orders(NOON + timedelta(hours=1), "too late", NOON) == 1
    newest, following = await store.orders(user="ada", limit=1)
    assert newest == [
        order(2, act=Act.PIN, until=NOON + timedelta(hours=1), answer="too late", answered_at=NOON)
    ]
    (oldest,), end = await store.orders(user="ada", before=following, limit=1)
    assert (oldest.answer, end) == ("Somebody asked for it.", None)


async def test_an_override_holds_until_it_is_ended_or_over(store: HubStore) -> None:
    """Overrides stand newest first, end when told to or when their time is over, and say who ended them."""
    rule = {"match": {"users": ["ada"]}, "set": {"mode": "off"}}
    one = await store.add_override(rule, "she asked", "root", NOON, NOON + timedelta(hours=1))
    two = await store.add_override(rule, "for good", "root", NOON, None)
    assert [o.number for o in await store.standing_overrides(NOON)] == [two, one]
    assert [o.number for o in await store.standing_overrides(NOON + timedelta(hours=1))] == [two]
    assert await store.end_override(two, "root2", NOON)
    assert not await store.end_override(two, "root3", NOON)
    assert [o.number for o in await store.standing_overrides(NOON)] == [one]
    remembered, _ = await store.overrides(limit=2)
    ended = [(o.number, o.ended_by, o.note) for o in remembered]
    assert ended == [(two, "root2", "for good"), (one, None, "she asked")]
