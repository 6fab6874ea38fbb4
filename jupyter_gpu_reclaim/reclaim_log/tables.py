"""The tables as the newest schema has them; `migrations/` is how a database gets there, and a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

VERSION_TABLE = "reclaim_log_version"


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: aware in, aware UTC out, to the microsecond, in an order that is the order of time.

    SQLite keeps no time zone: there the text is always UTC, of fixed width, and the zone is put back on reading.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The instant as the database keeps it; it must be aware."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Gives every instant as UTC, whatever zone the database's session uses."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Storable(TypeDecorator[str]):
    """Text that every database takes: a lone surrogate or a NUL (odd file names have them) is written as an escape.

    A label must never be the reason why an intent cannot be recorded.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """The text itself wherever it is well-formed."""
        if value is None:
            return None
        return str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


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
    Column("footprint", JSON, nullable=False),
    Column("moved_bytes", BigInteger),
    Column("freed_bytes", JSON, nullable=False),
    Column("unmovable", JSON, nullable=False),
    Column("took_seconds", Float),
    Column("detail", Storable, nullable=False),
    Column("actor", Storable, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("framework", String),
    Column("driver", String),
    # Each filter's first page is read off one index, newest first, without sorting. `event` rides along so that a
    # filter on rare events is answered from the index too, without touching the rows in between.
    Index("reclaim_transitions_newest", "at", "sequence", "event"),
    Index("reclaim_transitions_kernel", "kernel_id", "at", "sequence"),
    Index("reclaim_transitions_reason", "reason", "at", "sequence"),
)

# Which GPUs a row's footprint names: nothing that is not in the row, only an index into it that every database has.
transition_gpus = Table(
    "reclaim_transition_gpus",
    metadata,
    Column("gpu_uuid", Storable, primary_key=True),
    Column("at", UtcDateTime, primary_key=True),
    Column("sequence", Sequence, primary_key=True, autoincrement=False),
)
