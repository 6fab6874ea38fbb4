"""Brings a database to the newest schema, whichever of its revisions it is at, and refuses one that is newer."""

from __future__ import annotations

import threading
from functools import cache

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from jupyter_gpu_reclaim.reclaim_log.errors import NewerSchema
from jupyter_gpu_reclaim.reclaim_log.tables import VERSION_TABLE

ONE_AT_A_TIME = 0x6770_7265_636C_6169  # "gpreclai": the lock on PostgreSQL under which schemas are made

# Alembic's `op` and `context` belong to the whole process: two logs must not migrate at once.
_alembic = threading.Lock()


def migration_config() -> Config:
    """Alembic's configuration without a file of its own, for `command.upgrade` and for tests of single revisions."""
    config = Config()
    config.set_main_option("script_location", "jupyter_gpu_reclaim.reclaim_log:migrations")
    return config


@cache
def revisions() -> tuple[str, ...]:
    """Every revision of the schema, oldest first."""
    script = ScriptDirectory.from_config(migration_config())
    return tuple(reversed([step.revision for step in script.walk_revisions()]))


def revision_of(connection: Connection) -> str | None:
    """The revision the database is at; None before the first."""
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()


def is_current(connection: Connection) -> bool:
    """Whether nothing is left to do. Raises `NewerSchema`."""
    found = revision_of(connection)
    if found is not None and found not in revisions():
        raise NewerSchema(f"its schema is {found}, the newest known here is {revisions()[-1]}")
    return found == revisions()[-1]


def upgrade(connection: Connection, to: str = "head") -> None:
    """Migrates within the connection's transaction: all of it or nothing. Raises `NewerSchema`.

    The transaction must keep other servers out: on SQLite it holds the write lock, on PostgreSQL this takes a lock of
    its own. Whoever waited finds the work done.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(ONE_AT_A_TIME)))
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a large log's indices take their time
    if is_current(connection):
        return
    with _alembic:
        config = migration_config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)
