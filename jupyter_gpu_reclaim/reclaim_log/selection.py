"""Which rows a query is about, as SQL that reads them off an index, newest first."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, String, select, tuple_, union_all
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from jupyter_gpu_reclaim.core.model import Event, Reason
from jupyter_gpu_reclaim.reclaim_log.cursor import from_cursor
from jupyter_gpu_reclaim.reclaim_log.tables import transition_gpus, transitions


class beside(FunctionElement[str]):
    """A column that rows are not looked up by, since another filter is.

    SQLite keeps no statistics here and would take a user for as rare as a notebook, even where all rows are theirs.
    """

    inherit_cache = True
    type = String()


@compiles(beside)
def _the_column(element: beside, compiler: SQLCompiler, **more: Any) -> str:
    return compiler.process(element.clauses, **more)


@compiles(beside, "sqlite")
def _no_index(element: beside, compiler: SQLCompiler, **more: Any) -> str:
    return f"+{_the_column(element, compiler, **more)}"


def newest(
    count: int,
    *,
    kernel_id: str | None,
    gpu: str | None,
    reason: Reason | None,
    events: Iterable[Event],
    owner: str | None,
    whose: str | None,
    label: str | None,
    mechanism: str | None,
    since: datetime | None,
    until: datetime | None,
    after: str | None,
) -> Select:
    """The newest `count` rows that pass every filter given. Raises `BadCursor`, and ValueError for a naive instant."""
    at, sequence = (transition_gpus if gpu is not None else transitions).c["at", "sequence"]
    among: list[ColumnElement[bool]] = []
    for column, value in (
        (transitions.c.kernel_id, kernel_id),
        (transitions.c.reason, reason.value if reason is not None else None),
        (transitions.c.owner, owner),
        (transitions.c.label, label),
        (transitions.c.mechanism, mechanism),
        (transition_gpus.c.gpu_uuid, gpu),
    ):
        if value is not None:
            among.append(column == value)
    within: list[ColumnElement[bool]] = []
    if since is not None:
        within.append(at >= utc(since))
    if until is not None:
        within.append(at < utc(until))
    if after is not None:
        within.append(tuple_(at, sequence) < tuple_(*from_cursor(after), types=[at.type, sequence.type]))
    wanted = sorted({event.value for event in events})
    if whose is not None:
        owners = sorted({whose, ""})
        if not among and not wanted:
            return _of_several(transitions.c.owner, owners, within, count)
        within.append(beside(transitions.c.owner).in_(owners))
    if len(wanted) > 1 and not among:
        return _of_several(transitions.c.event, wanted, within, count)
    found = select(transitions)
    if gpu is not None:
        found = found.join_from(transition_gpus, transitions, transitions.c.sequence == sequence)
    if wanted:
        among.append(transitions.c.event.in_(wanted) if len(wanted) > 1 else transitions.c.event == wanted[0])
    return found.where(*among, *within).order_by(at.desc(), sequence.desc()).limit(count)


def _of_several(
    column: Column[str], wanted: Iterable[str], within: list[ColumnElement[bool]], count: int
) -> Select:
    """The newest of each word, then the newest of these: a database that is given a list may pass over all rows."""
    at, sequence = transitions.c["at", "sequence"]
    each = [
        select(sequence)
        .where(column == word, *within)
        .order_by(at.desc(), sequence.desc())
        .limit(count)
        .subquery()
        for word in wanted
    ]
    those = union_all(*(select(one.c.sequence) for one in each))
    return select(transitions).where(sequence.in_(those)).order_by(at.desc(), sequence.desc()).limit(count)


def utc(instant: datetime) -> datetime:
    """The same instant in UTC. Raises ValueError for a naive one, and for one outside the calendar's years."""
    if instant.tzinfo is None:
        raise ValueError(f"an instant must be aware, this one is naive: {instant!r}")
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"no such instant in UTC: {instant!r}") from error
