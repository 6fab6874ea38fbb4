"""Brings a database to the newest schema, whichever of its revisions it is at, and refuses one that is newer.

What lies beside the log in the same database (the hub's tables) has a history of its own, kept in the same way.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class History:
    """Revisions of some tables: where they are described, and the table that says which a database is at."""

    scripts: str
    version_table: str


LOG = History("jupyter_gpu_reclaim.reclaim_log:migrations", VERSION_TABLE)


def migration_config(history: History = LOG) -> Config:
    """Alembic's configuration without a file of its own, for `command.upgrade` and for tests of single revisions."""
    config = Config()
    config.set_main_option("script_location", history.scripts)
    config.attributes["version_table"] = history.version_table
    return config


@cache
def revisions(history: History = LOG) -> tuple[str, ...]:
    """Every revision of the schema, oldest first."""
    script = ScriptDirectory.from_config(migration_config(history))
    return tuple(reversed([step.revision for step in script.walk_revisions()]))


def revision_of(connection: Connection, history: History = LOG) -> str | None:
    """The revision the database is at; None before the first."""
    options = {"version_table": history.version_table}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def is_current(connection: Connection, history: History = LOG) -> bool:
    """Whether nothing is left to do. Raises `NewerSchema`."""
    found, known = revision_of(connection, history), revisions(history)
    if found is not None and found not in known:
        raise NewerSchema(f"its schema is {found}, the newest known here is {known[-1]}")
    return found == known[-1]


def upgrade(connection: Connection, to: str = "head", history: History = LOG) -> None:
    """Migrates within the connection's transaction: all of it or nothing. Raises `NewerSchema`.

    The transaction must keep other servers out: on SQLite it holds the write lock, on PostgreSQL this takes a lock of
    its own. Whoever waited finds the work done.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(ONE_AT_A_TIME)))
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a large log's indices take their time
    if is_current(connection, history):
        return
    with _alembic:
        config = migration_config(history)
        config.attributes["connection"] = connection
        command.upgrade(config, to)
