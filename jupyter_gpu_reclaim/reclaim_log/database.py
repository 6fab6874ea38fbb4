"""The connection: opens, migrates and, when the file was swapped under it, opens again. Everything here blocks."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url

from jupyter_gpu_reclaim.reclaim_log import schema

log = logging.getLogger(__name__)

WRITES = "reclaim_log_writes"
REST_SECONDS = 0.005

T = TypeVar("T")


class Database:
    """One database by its URL. Opens itself when used; after any error it opens anew at the next use."""

    def __init__(self, db_url: str, patience: float) -> None:
        self._db_url = db_url
        self._patience = patience  # seconds that one statement may wait for another program's lock
        self._engine: Engine | None = None
        self._file: tuple[Path, tuple[int, int]] | None = None  # which is open, where the database is one

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the log."""
        with self._opened().begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write from its start, so that it never fails half-way for want of the lock."""
        with _writer(self._opened()).begin() as connection:
            yield connection

    def open(self) -> None:
        """Creates the database's file (0600) and folder where they lack, and migrates. Does nothing when it is open."""
        self._opened()

    def dispose(self) -> None:
        """Closes the connection; the next use opens a new one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def _opened(self) -> Engine:
        if self._engine is not None and self._swapped():
            log.warning("%s was removed or replaced; the reclaim log opens what is there now", self._db_url)
            self.dispose()
        if self._engine is None:
            url = make_url(self._db_url)
            path = _sqlite_file(url)
            if path is not None:
                _create_private(path)
            engine = _engine(url, self._patience)
            try:
                _migrate(engine, self._patience)
            except BaseException:
                engine.dispose()
                raise
            self._file = (path, _identity(path)) if path is not None else None
            self._engine = engine
        return self._engine

    def _swapped(self) -> bool:
        """Whether the name now leads to another file or none: rows written to the old one would be lost unseen."""
        if self._file is None:
            return False
        path, identity = self._file
        try:
            return _identity(path) != identity
        except OSError:
            return True


def in_parts(rows: Iterable[T], count: int) -> Iterator[Sequence[T]]:
    """The rows, at most so many at once, with a rest between: for a thread whose write nobody waits for.

    A driver in C lets no other thread run before it is through with its rows, and without a rest the event loop would
    have to wait for its turn at each of its system calls.
    """
    left = iter(rows)
    while part := list(islice(left, count)):
        yield part
        if len(part) == count:
            time.sleep(REST_SECONDS)


def shown(db_url: str) -> str:
    """The URL as it may be shown: without its password, and nothing of it where it cannot be read as a URL."""
    try:
        return make_url(db_url).render_as_string(hide_password=True)
    except Exception:  # whatever is wrong with it, opening says so; here only the password matters
        return "(db_url)"


def _writer(engine: Engine) -> Engine:
    return engine.execution_options(**{WRITES: True})


def _engine(url: URL, patience: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": patience}, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    milliseconds = int(patience * 1000)
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        arguments = {
            "connect_timeout": max(2, int(patience)),
            "options": f"-c lock_timeout={milliseconds} -c statement_timeout={2 * milliseconds}",
        }
    return create_engine(
        url, connect_args=arguments, pool_size=1, max_overflow=0, pool_pre_ping=True, hide_parameters=True
    )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Hands transactions to us (the driver would begin them late and not around DDL) and makes a commit durable."""
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: Engine, patience: float) -> None:
    with engine.begin() as connection:
        if schema.is_current(connection):
            return  # a log that is only read needs no right to write
        fresh = schema.revision_of(connection) is None
    if fresh and engine.dialect.name == "sqlite":
        _use_write_ahead_log(engine, patience)
    with _writer(engine).begin() as connection:
        schema.upgrade(connection)


def _use_write_ahead_log(engine: Engine, patience: float) -> None:
    """Lets readers and the writer work side by side; the mode stays with the file.

    SQLite does not wait for a lock on this statement, so two servers that open a new file at once need the loop.
    """
    until = time.monotonic() + patience
    connection = (
        engine.raw_connection()
    )  # SQLAlchemy would begin a transaction, in which the mode cannot change
    try:
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.02)
    finally:
        connection.close()


def _sqlite_file(url: URL) -> Path | None:
    """The file of the URL; None for another database, one in memory, or a `file:` URI, which SQLite alone reads."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return None if url.database.startswith("file:") else Path(url.database).absolute()


def _create_private(path: Path) -> None:
    """The log tells who ran what and when: a new file is its owner's alone. A file that is there keeps its mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        pass  # the usual case: SQLite gives its side files the mode of this one


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
