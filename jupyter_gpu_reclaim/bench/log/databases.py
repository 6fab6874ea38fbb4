"""The two databases, each by its URL and by its bare driver."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.bench.log.postgresql import PostgresqlServer, missing


class Bare:
    """SQL without anything around it, through a connection of its own. Placeholders are `?`."""

    def __init__(self, connection: Any, placeholder: str) -> None:
        self._connection = connection
        self._placeholder = placeholder

    def many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """The statement for each row."""
        self._connection.cursor().executemany(statement.replace("?", self._placeholder), rows)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        """All that the statement gives."""
        cursor = self._connection.cursor()
        cursor.execute(statement.replace("?", self._placeholder), values)
        return cursor.fetchall() if cursor.description else []

    def commit(self) -> None:
        """End the transaction."""
        self._connection.commit()

    def close(self) -> None:
        """End."""
        self._connection.close()


class Sqlite:
    """A new file."""

    name = "SQLite"

    def __init__(self, folder: Path) -> None:
        self._file = folder / "log.sqlite"
        self.url = f"sqlite:///{self._file}"

    def bare(self) -> Bare:
        """As durable as the log's own connection."""
        connection = sqlite3.connect(self._file)
        connection.execute("PRAGMA synchronous = FULL")
        return Bare(connection, "?")

    def size(self) -> int:
        """Bytes of the database."""
        connection = sqlite3.connect(self._file)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return os.path.getsize(self._file)


class Postgresql:
    """A new server's."""

    name = "PostgreSQL"

    def __init__(self, server: PostgresqlServer) -> None:
        self.url = server.url()

    def bare(self) -> Bare:
        """Through psycopg alone."""
        import psycopg

        return Bare(psycopg.connect(self.url.replace("+psycopg", "")), "%s")

    def size(self) -> int:
        """Bytes of its tables with their indices."""
        bare = self.bare()
        ((size,),) = bare.rows("SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables")
        bare.close()
        return int(size)


@contextmanager
def new(kind: str) -> Iterator[Sqlite | Postgresql | None]:
    """A database of the kind, for a while; None where there is none on this machine."""
    with tempfile.TemporaryDirectory(prefix="reclaim-bench-") as folder:
        if kind == "SQLite":
            yield Sqlite(Path(folder))
            return
        if missing() is not None:
            yield None
            return
        server = PostgresqlServer(fsync=True)
        server.start()
        try:
            yield Postgresql(server)
        finally:
            server.stop()
            server.remove()
