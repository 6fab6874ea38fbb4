"""The log on PostgreSQL: the same promises, kept by the same code. Needs a PostgreSQL and psycopg on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from contract.log_contract import LogContract, everything, numbers, row
from contract.retention_contract import RetentionContract
from contract.usage_contract import UsageContract
from sqlalchemy import Connection, create_engine, text

from jupyter_gpu_reclaim.bench.log.postgresql import PostgresqlServer, missing
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.tables import VERSION_TABLE, metadata

NewLog = Callable[..., SqlReclaimLog]

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"PostgreSQL cannot be tried here: {missing()}")


@pytest.fixture(scope="session")
def running() -> Iterator[PostgresqlServer]:
    """One server for all tests."""
    server = PostgresqlServer()
    server.start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture
def server(running: PostgresqlServer) -> PostgresqlServer:
    """The server, its database empty, its clock's zone not UTC."""
    with administrator(running) as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
        connection.execute(text("ALTER DATABASE postgres SET timezone TO 'Asia/Kathmandu'"))
    return running


@pytest.fixture
def log(new_log: NewLog, server: PostgresqlServer) -> SqlReclaimLog:
    """One log in the empty database."""
    return new_log(server.url())


@contextmanager
def administrator(server: PostgresqlServer) -> Iterator[Connection]:
    """Somebody else at the same database, in one transaction."""
    engine = create_engine(server.url())
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


async def problem_of_append(log: SqlReclaimLog, number: int) -> str:
    """What the log says when it cannot append that row."""
    with pytest.raises(LogUnavailable) as raised:
        await log.append([row(number)])
    return str(raised.value)


class TestPostgresql(LogContract):
    """The whole contract, on PostgreSQL."""


class TestPostgresqlUsage(UsageContract):
    """The usage samples' as well."""


class TestPostgresqlRetention(RetentionContract):
    """And retention's."""


async def test_servers_that_meet_on_a_new_database(new_log: NewLog, server: PostgresqlServer) -> None:
    """Servers that open an empty database at once and append the same rows write each row once."""
    logs = [new_log(server.url()) for _ in range(4)]
    rows = [row(n, footprint={"GPU-1": 1}) for n in range(1, 21)]
    await asyncio.gather(*(log.append(rows[start:]) for start in (0, 5, 10) for log in logs))
    for log in logs:
        assert sorted(numbers(await everything(log))) == list(range(1, 21))
        assert sorted(numbers(await everything(log, gpu="GPU-1"))) == list(range(1, 21))


async def test_the_tables_are_those_the_code_means(log: SqlReclaimLog, server: PostgresqlServer) -> None:
    """After all migrations the database has exactly the tables, columns and indices of `tables.py`."""
    await log.open()
    with administrator(server) as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


async def test_a_locked_table(new_log: NewLog, server: PostgresqlServer) -> None:
    """A table that another program holds locked is named as such; once it lets go the same rows go in."""
    log = new_log(server.url(), patience=timedelta(milliseconds=100))
    await log.append([row(1)])
    with administrator(server) as connection:
        connection.execute(text("LOCK TABLE reclaim_transitions IN ACCESS EXCLUSIVE MODE"))
        said = await problem_of_append(log, 2)
    assert "another program holds the database locked" in said
    assert "None of these rows was written" in said
    await log.append([row(2)])
    assert numbers(await everything(log)) == [2, 1]


async def test_a_server_that_goes_and_comes(log: SqlReclaimLog, server: PostgresqlServer) -> None:
    """While PostgreSQL is down the log says so; the first call after it is back works, nothing lost or doubled."""
    await log.append([row(1)])
    server.stop()
    try:
        for _ in range(2):
            assert "the database cannot be reached" in await problem_of_append(log, 2)
    finally:
        server.start()
    await log.append([row(2)])
    assert numbers(await everything(log)) == [2, 1]


async def test_a_user_who_may_only_read(new_log: NewLog, server: PostgresqlServer) -> None:
    """A user without the right to write can read the log; an append is refused with the cause."""
    log = new_log(server.url())
    await log.append([row(1)])
    with administrator(server) as connection:
        connection.execute(text("DROP ROLE IF EXISTS reader"))
        connection.execute(text("CREATE ROLE reader LOGIN"))
        connection.execute(text("GRANT USAGE ON SCHEMA public TO reader"))
        connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"))
    try:
        reader = new_log(server.url("reader"))
        assert numbers(await everything(reader)) == [1]
        assert "the database refuses this user" in await problem_of_append(reader, 2)
    finally:
        with administrator(server) as connection:
            connection.execute(text("DROP OWNED BY reader"))


async def test_a_user_nobody_knows(new_log: NewLog, server: PostgresqlServer) -> None:
    """A db_url with an unknown user is refused with the advice to check it, and without its password."""
    said = await problem_of_append(new_log(server.url("nobody:secret")), 1)
    assert "could not be opened" in said
    assert "secret" not in said
