"""Rows written as tuples of all columns, through a statement that is compiled once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import Connection, Dialect, Table, insert
from sqlalchemy.engine.default import DefaultDialect


class WholeRows:
    """An INSERT of rows as tuples in the order of the table's columns.

    `Connection.execute` takes them as mappings and looks each value up by its name, twice: for a hundred rows of twenty
    columns that takes a third as long as the database needs to write them.
    """

    def __init__(self, table: Table, dialect: Dialect) -> None:
        # Only here: where one value stands twice in a statement, PostgreSQL must see that it is the same by its name.
        positional = (
            dialect if dialect.positional else type(cast(DefaultDialect, dialect))(paramstyle="format")
        )
        self._statement = str(insert(table).compile(dialect=positional))
        self._kept_as = [
            column.type.dialect_impl(dialect).bind_processor(dialect) for column in table.columns
        ]

    def insert(self, connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write the rows, all or none. Does nothing without any."""
        columns = [
            values if kept_as is None else map(kept_as, values)
            for kept_as, values in zip(self._kept_as, zip(*rows, strict=True), strict=False)
        ]
        if columns:
            connection.exec_driver_sql(self._statement, list(zip(*columns, strict=True)))


@lru_cache(maxsize=16)
def whole_rows(table: Table, dialect: Dialect) -> WholeRows:
    """That of the table, for connections of the dialect."""
    return WholeRows(table, dialect)
