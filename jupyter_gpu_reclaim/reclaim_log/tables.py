"""The tables as the newest schema has them; `migrations/` is how a database gets there, and a test compares the two."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    cast,
    type_coerce,
)
from sqlalchemy.types import TypeDecorator

VERSION_TABLE = "reclaim_log_version"


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: aware in, aware UTC out, to the microsecond, in an order that is the order of time.

    SQLite keeps no time zone: there the text is always UTC, of fixed width, and the zone is put back on reading.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], Any]:
        """Takes the instant, which must be aware."""
        if dialect.name == "sqlite":
            return lambda value: None if value is None else _as_text(value)
        return lambda value: value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Gives every instant as UTC, whatever zone the database's session uses."""
        if dialect.name == "sqlite":
            return lambda value: None if value is None else datetime.fromisoformat(f"{value}+00:00")
        return lambda value: None if value is None else value.astimezone(UTC)


def _as_text(instant: datetime) -> str:
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


class Storable(TypeDecorator[str]):
    """Text that every database takes: a lone surrogate or a NUL (odd file names have them) is written as an escape.

    A label must never be the reason why an intent cannot be recorded.
    """

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        """The text itself wherever it is well-formed."""
        return _storable


def _storable(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and "\0" not in value:
        return value  # most are, and a batch has hundreds
    return str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


class BytesByName(TypeDecorator[dict[str, int]]):
    """A map as JSON. Maps with the same content are one object, which nobody may change."""

    impl = JSON
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """Takes the map as text. Most are empty."""
        return lambda value: json.dumps(value) if value else "{}"

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Read as text: PostgreSQL's driver would parse each."""
        return type_coerce(cast(column, Text), self)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str], dict[str, int]]:
        """Gives the map."""
        return _parsed


@lru_cache(maxsize=4096)
def _parsed(text: str) -> dict[str, int]:
    """The JSON in a text. Rows come by the hundred, and few differ in what a kernel held."""
    return json.loads(text)


# On SQLite only a column of type INTEGER numbers itself.
Sequence = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

transitions = Table(
    "reclaim_transitions",
    metadata,
    Column("sequence", Sequence, primary_key=True),  # order of arrival; settles rows of one instant
    Column("id", String, nullable=False, unique=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kernel_id", Storable, nullable=False),
    Column("event", String, nullable=False),
    Column("phase", String, nullable=False),
    Column("episode_id", String),
    Column("reason", String),
    Column("label", Storable, nullable=False),
    Column("owner", Storable, nullable=False),
    Column("mechanism", String),
    Column("footprint", BytesByName, nullable=False),
    Column("moved_bytes", BigInteger),
    Column("freed_bytes", BytesByName, nullable=False),
    Column("unmovable", BytesByName, nullable=False),
    Column("took_seconds", Float),
    Column("detail", Storable, nullable=False),
    Column("actor", Storable, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("framework", String),
    Column("driver", String),
    # Each filter's first page is read off one index, newest first, without sorting. `event` rides along so that a
    # filter on rare events is answered from the index too, without touching the rows in between. So does what one
    # user's rows are filtered by, and the user of a notebook's rows: others may have one of the same name.
    Index("reclaim_transitions_newest", "at", "sequence", "event"),
    Index("reclaim_transitions_kernel", "kernel_id", "at", "sequence"),
    Index("reclaim_transitions_reason", "reason", "at", "sequence"),
    Index("reclaim_transitions_event", "event", "at", "sequence"),
    Index("reclaim_transitions_owner", "owner", "at", "sequence", "event", "reason", "mechanism"),
    Index("reclaim_transitions_label", "label", "at", "sequence", "owner"),
    Index("reclaim_transitions_mechanism", "mechanism", "at", "sequence"),
    Index("reclaim_transitions_episode", "episode_id"),
)

# Which GPUs a row's footprint names: nothing that is not in the row, only an index into it that every database has.
transition_gpus = Table(
    "reclaim_transition_gpus",
    metadata,
    Column("gpu_uuid", Storable, primary_key=True),
    Column("at", UtcDateTime, primary_key=True),
    Column("sequence", Sequence, primary_key=True, autoincrement=False),
)

# What was held, over time. Amounts are integrals (bytes × seconds, or milliseconds of a state), so that a coarser row
# is the sum of finer ones, and `ms` says how much of the span was observed. `step` is the span in seconds, `at` its
# beginning in seconds since 1970. Names and UUIDs stand in tables of their own: there are millions of rows.
usage_sources = Table(
    "reclaim_usage_sources",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("name", Storable, nullable=False, unique=True),  # which server: user@host
)

usage_gpus = Table(
    "reclaim_usage_gpus",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("uuid", Storable, nullable=False, unique=True),
    Column("name", Storable, nullable=False),
    Column("simulated", Boolean, nullable=False),
)

usage_kernels = Table(
    "reclaim_usage_kernels",
    metadata,
    Column("id", Sequence, primary_key=True),
    Column("kernel_id", Storable, nullable=False),
    Column("label", Storable, nullable=False),
    Column("owner", Storable, nullable=False),
    UniqueConstraint("kernel_id", "label", "owner", name="reclaim_usage_kernels_once"),
)

gpu_usage = Table(
    "reclaim_gpu_usage",
    metadata,
    Column("step", Integer, primary_key=True),
    Column("source", Integer, primary_key=True),
    Column("gpu", Integer, primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("ms", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("resident", BigInteger, nullable=False),
    Column("reclaimed", BigInteger, nullable=False),
    Column("others", BigInteger, nullable=False),
    Column("held_ms", BigInteger, nullable=False),  # some kernel of ours is resident there
    Column("idle_ms", BigInteger, nullable=False),  # and all of them are idle
    Column("bare_ms", BigInteger, nullable=False),  # reclaimed, context and all, and nobody else is there
    Column("busy", BigInteger, nullable=False),  # utilisation × milliseconds
    Column("busy_ms", BigInteger, nullable=False),  # of which it was known
    Column("millijoules", BigInteger, nullable=False),
    Column("power_ms", BigInteger, nullable=False),  # for which power was known
    sqlite_with_rowid=False,
)

kernel_usage = Table(
    "reclaim_kernel_usage",
    metadata,
    Column("step", Integer, primary_key=True),
    Column("source", Integer, primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("kernel", Integer, primary_key=True),
    Column("gpu", Integer, primary_key=True),
    Column("ms", BigInteger, nullable=False),
    Column("resident", BigInteger, nullable=False),
    Column("idle", BigInteger, nullable=False),  # of that, while no code of its user ran
    Column("reclaimed", BigInteger, nullable=False),
    Column("waited_ms", BigInteger, nullable=False),  # its user's code waited at the gate
    sqlite_with_rowid=False,
)
