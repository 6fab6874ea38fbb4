"""A database in any kind of trouble holds up no reclaim and no restore, and has every row once when it is well."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from contract.log_contract import everything
from fakes import GIB, World
from rig import HOUR, reconciler, rounds
from sqlalchemy import Engine, event

from jupyter_gpu_reclaim.core.model import Phase, Transition
from jupyter_gpu_reclaim.reclaim_log import QueuedReclaimLog, SqlReclaimLog

LONG = 3000  # a row of such a kernel takes room that a full database does not have
A = "a" * LONG
Trouble = Callable[[Path], Iterator[None]]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another program holds it."""
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    yield
    holder.close()


@contextmanager
def every_connection(statement: str) -> Iterator[None]:
    """Each connection begins with this."""

    def first(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(statement)

    event.listen(Engine, "connect", first)
    try:
        yield
    finally:
        event.remove(Engine, "connect", first)


@contextmanager
def read_only(file: Path) -> Iterator[None]:
    """It can be read, and not written."""
    with moved_away(file, keep=True), every_connection("PRAGMA query_only = ON"):
        yield


@contextmanager
def full(file: Path) -> Iterator[None]:
    """It cannot grow."""
    with moved_away(file, keep=True), every_connection("PRAGMA max_page_count = 1"):
        yield


@contextmanager
def corrupt(file: Path) -> Iterator[None]:
    """Its content is something else."""
    with moved_away(file):
        file.write_bytes(b"not a database " * 1000)
        yield
        file.unlink()


@contextmanager
def gone(file: Path) -> Iterator[None]:
    """Neither it nor its folder is there, nor can they be made."""
    with moved_away(file):
        file.parent.rename(file.parent.with_name("folder"))
        file.parent.write_text("no folder")
        yield
        file.parent.unlink()
        file.parent.with_name("folder").rename(file.parent)


@contextmanager
def moved_away(file: Path, keep: bool = False) -> Iterator[None]:
    """The file lies elsewhere for a while; with `keep` a copy stays, so that a connection is opened anew."""
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = file.read_bytes()
    for path in file.parent.glob(file.name + "*"):
        path.unlink()
    if keep:
        file.write_bytes(content)
    yield
    for path in file.parent.glob(file.name + "*"):
        path.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize("trouble", [locked, read_only, full, corrupt, gone])
async def test_reclaims_and_restores_go_on(trouble: Trouble, tmp_path: Path) -> None:
    """Old kernels and a new one are reclaimed and restored meanwhile; then the log has each row once, in order."""
    file = tmp_path / "database" / "log.sqlite"
    plain = SqlReclaimLog(f"sqlite:///{file}", patience=timedelta(milliseconds=50))
    log = QueuedReclaimLog(plain, tmp_path / "queue", answer_within=timedelta(minutes=1))
    world, told = World(), []
    world.log = log
    kernel, other = world.start(A, idle=HOUR, g0=GIB), world.start("b" * LONG, g0=GIB)
    one = reconciler(world)
    one.on_change(lambda status, rows: told.extend(rows))
    await rounds(one, world, 2)
    assert kernel.phase is Phase.RECLAIMED
    with ExitStack() as troubled:
        troubled.enter_context(trouble(file))
        world.run_cell(A)
        await rounds(one, world)
        assert kernel.running_since is not None
        newborn = world.start("c" * LONG, idle=HOUR, g0=GIB)
        world.clock.advance(hours=1)
        await rounds(one, world, 3)
        assert (other.phase, newborn.phase) == (Phase.RECLAIMED, Phase.RECLAIMED)
        (problem,) = one.status().problems
        assert f"{log.waiting} rows of the reclaim log wait on disk" in problem
        assert log.waiting == len(told) - 2
    await log.handed_on()
    await rounds(one, world)
    assert one.status().problems == ()
    assert log.waiting == 0
    reader = SqlReclaimLog(f"sqlite:///{file}")
    written: list[Transition] = await everything(reader)
    assert written == told[::-1]
    assert len({row.id for row in written}) == len(written) == 8
    await one.stop()
    await log.close()
    await reader.close()
