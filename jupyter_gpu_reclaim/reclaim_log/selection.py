"""Which rows a query is about, as SQL that reads them off an index, newest first."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, String, false, select, tuple_, union_all
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from jupyter_gpu_reclaim.core.model import Event, Reason
from jupyter_gpu_reclaim.reclaim_log.cursor import from_cursor
from jupyter_gpu_reclaim.reclaim_log.tables import transition_gpus, transitions


class beside(FunctionElement[str]):
    """A column that rows are not looked up by, since they are by another.

    SQLite keeps no statistics here: it would take a user for as rare as a notebook, even where all rows are theirs, and
    a reason for as rare as a user, where that reason is everybody's.
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
    owners = _owners(owner, whose)
    if owners == []:
        return select(transitions).where(false())
    by_owner = owners is not None and kernel_id is None and label is None
    by_gpu = gpu is not None and not by_owner
    at, sequence = (transition_gpus if by_gpu else transitions).c["at", "sequence"]
    within: list[ColumnElement[bool]] = []
    if since is not None:
        within.append(at >= utc(since))
    if until is not None:
        within.append(at < utc(until))
    if after is not None:
        within.append(tuple_(at, sequence) < tuple_(*from_cursor(after), types=[at.type, sequence.type]))
    among = {
        transitions.c.kernel_id: [] if kernel_id is None else [kernel_id],
        transitions.c.label: [] if label is None else [label],
        transitions.c.reason: [] if reason is None else [reason.value],
        transitions.c.mechanism: [] if mechanism is None else [mechanism],
        transitions.c.event: sorted({event.value for event in events}),
    }
    given = {column: words for column, words in among.items() if words}
    if owners is not None and by_owner and (given or gpu is not None or len(owners) > 1):
        passing = [_one_of(beside(column), words) for column, words in given.items()]
        if gpu is not None:
            passing.append(_names(gpu))
        return _of_several(transitions.c.owner, owners, [*passing, *within], count)
    if owners is not None:
        column = transitions.c.owner
        within.append(column == owners[0] if by_owner else beside(column).in_(owners))
    wanted = given.get(transitions.c.event, [])
    if len(wanted) > 1 and len(given) == 1 and owners is None and not by_gpu:
        return _of_several(transitions.c.event, wanted, within, count)
    found = select(transitions)
    if by_gpu:
        found = found.join_from(transition_gpus, transitions, transitions.c.sequence == sequence)
        within.append(transition_gpus.c.gpu_uuid == gpu)
    passing = [_one_of(column, words) for column, words in given.items()]
    return found.where(*passing, *within).order_by(at.desc(), sequence.desc()).limit(count)


def _owners(owner: str | None, whose: str | None) -> list[str] | None:
    """Whose rows pass; None: everybody's."""
    if whose is None:
        return None if owner is None else [owner]
    return sorted({whose, ""}) if owner is None else [owner] if owner in (whose, "") else []


def _one_of(column: ColumnElement[str], words: list[str]) -> ColumnElement[bool]:
    return column == words[0] if len(words) == 1 else column.in_(words)


def _names(gpu: str) -> ColumnElement[bool]:
    """Whether the row's footprint names the GPU, looked up row by row: PostgreSQL would turn an EXISTS into a join."""
    named = transition_gpus.c
    there = [named.gpu_uuid == gpu, named.at == transitions.c.at, named.sequence == transitions.c.sequence]
    return select(named.sequence).where(*there).scalar_subquery().is_not(None)


def _of_several(
    column: Column[str], wanted: list[str], within: list[ColumnElement[bool]], count: int
) -> Select:
    """The newest of each word, then the newest of these: a database that is given a list may pass over all rows.

    What the index holds is looked at first; only rows that pass are read.
    """
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
