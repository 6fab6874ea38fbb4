"""The schema's history: from every revision there was, with rows in it, to the present one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from contract.log_contract import everything, row
from sqlalchemy import Connection, create_engine, inspect, text

from jupyter_gpu_reclaim.core.model import Event, Phase, Reason, Transition
from jupyter_gpu_reclaim.ports import LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog, schema
from jupyter_gpu_reclaim.reclaim_log.tables import VERSION_TABLE, metadata

ITS_GPU = """INSERT INTO reclaim_transition_gpus (gpu_uuid, at, sequence)
  SELECT 'GPU-1', at, sequence FROM reclaim_transitions
"""
INSERT_0001 = """INSERT INTO reclaim_transitions (id, at, kernel_id, event, phase, episode_id, reason, label, owner,
    mechanism, footprint, moved_bytes, freed_bytes, unmovable, took_seconds, detail, actor, simulated)"""

# For each revision, SQL that writes rows the way that revision's version did, and what they must read as today.
# A revision that is added gets an entry; an entry that is here is never changed.
WRITTEN_BY: dict[str, tuple[list[str], list[Transition]]] = {
    "0001": (
        [
            f"""{INSERT_0001}
              VALUES ('row-1', '2026-03-01 12:00:00.000000', 'kernel-1', 'reclaim_started', 'reclaiming', 'episode-1',
               'idle', 'train.ipynb', 'ada', 'torch_offload', '{{"GPU-1": 1024}}', NULL, '{{}}', '{{}}', NULL, '', '',
               0)
            """,
            f"""{INSERT_0001}
               VALUES ('row-2', '2026-03-01 12:00:01.250000', 'kernel-1', 'reclaim_done', 'reclaimed', 'episode-1',
               'idle', 'train.ipynb', 'ada', 'torch_offload', '{{"GPU-1": 1024}}', 1000, '{{"GPU-1": 1000}}',
               '{{"graph": 24}}', 1.25, 'détail', 'admin', 1)
            """,
            ITS_GPU,
        ],
        [
            Transition(
                id="row-2",
                at=datetime(2026, 3, 1, 12, 0, 1, 250_000, tzinfo=UTC),
                kernel_id="kernel-1",
                event=Event.RECLAIM_DONE,
                phase=Phase.RECLAIMED,
                episode_id="episode-1",
                reason=Reason.IDLE,
                label="train.ipynb",
                owner="ada",
                mechanism="torch_offload",
                footprint={"GPU-1": 1024},
                moved_bytes=1000,
                freed_bytes={"GPU-1": 1000},
                unmovable={"graph": 24},
                took=timedelta(seconds=1.25),
                detail="détail",
                actor="admin",
                simulated=True,
            ),
            Transition(
                id="row-1",
                at=datetime(2026, 3, 1, 12, tzinfo=UTC),
                kernel_id="kernel-1",
                event=Event.RECLAIM_STARTED,
                phase=Phase.RECLAIMING,
                episode_id="episode-1",
                reason=Reason.IDLE,
                label="train.ipynb",
                owner="ada",
                mechanism="torch_offload",
                footprint={"GPU-1": 1024},
            ),
        ],
    ),
    "0002": (
        [
            """INSERT INTO reclaim_transitions (id, at, kernel_id, event, phase, episode_id, reason, label, owner,
                 mechanism, footprint, moved_bytes, freed_bytes, unmovable, took_seconds, detail, actor, simulated,
                 framework, driver)
               VALUES ('row-3', '2026-11-23 12:00:00.000000', 'kernel-1', 'alarm_raised', 'resident', 'episode-1',
               'idle', 'train.ipynb', 'ada', 'torch_offload', '{"GPU-1": 1024}', NULL, '{}', '{}', NULL,
               'A checksum differs.', '', 0, 'torch 2.13.0', '580.65.06')
            """,
            ITS_GPU,
        ],
        [
            Transition(
                id="row-3",
                at=datetime(2026, 11, 23, 12, tzinfo=UTC),
                kernel_id="kernel-1",
                event=Event.ALARM_RAISED,
                phase=Phase.RESIDENT,
                episode_id="episode-1",
                reason=Reason.IDLE,
                label="train.ipynb",
                owner="ada",
                mechanism="torch_offload",
                framework="torch 2.13.0",
                driver="580.65.06",
                footprint={"GPU-1": 1024},
                detail="A checksum differs.",
            ),
        ],
    ),
    "0003": (
        [
            """INSERT INTO reclaim_transitions (id, at, kernel_id, event, phase, episode_id, reason, label, owner,
                 mechanism, footprint, moved_bytes, freed_bytes, unmovable, took_seconds, detail, actor, simulated,
                 framework, driver)
               VALUES ('row-4', '2026-11-26 04:00:00.000000', 'kernel-1', 'reclaim_started', 'reclaiming', 'episode-1',
               'idle', '#0123456789abcdef', '', 'torch_offload', '{"GPU-1": 1024}', NULL, '{}', '{}', NULL,
               '', '', 0, 'torch 2.13.0', '580.65.06')
            """,
            ITS_GPU,
            "INSERT INTO reclaim_usage_sources (id, name) VALUES (1, 'ada@host')",
            "INSERT INTO reclaim_usage_gpus (id, uuid, name, simulated) VALUES (1, 'GPU-1', 'Some GPU', 0)",
            """INSERT INTO reclaim_gpu_usage (step, source, gpu, at, ms, total, resident, reclaimed, others, held_ms,
                 idle_ms, bare_ms, busy, busy_ms, millijoules, power_ms)
               VALUES (60, 1, 1, 1795665600, 60000, 1000, 120, 60, 0, 0, 0, 0, 0, 0, 0, 0)
            """,
        ],
        [
            Transition(
                id="row-4",
                at=datetime(2026, 11, 26, 4, tzinfo=UTC),
                kernel_id="kernel-1",
                event=Event.RECLAIM_STARTED,
                phase=Phase.RECLAIMING,
                episode_id="episode-1",
                reason=Reason.IDLE,
                label="#0123456789abcdef",
                mechanism="torch_offload",
                framework="torch 2.13.0",
                driver="580.65.06",
                footprint={"GPU-1": 1024},
            ),
        ],
    ),
    "0004": (
        [
            """INSERT INTO reclaim_transitions (id, at, kernel_id, event, phase, episode_id, reason, label, owner,
                 mechanism, footprint, moved_bytes, freed_bytes, unmovable, took_seconds, detail, actor, simulated,
                 framework, driver)
               VALUES ('row-5', '2026-11-26 17:00:00.000000', 'kernel-1', 'restore_done', 'resident', 'episode-1',
               'idle', 'train.ipynb', 'ada', 'torch_offload', '{"GPU-1": 1024}', 1024, '{}', '{}', 0.5,
               '', '', 0, 'torch 2.13.0', '580.65.06')
            """,
            ITS_GPU,
        ],
        [
            Transition(
                id="row-5",
                at=datetime(2026, 11, 26, 17, tzinfo=UTC),
                kernel_id="kernel-1",
                event=Event.RESTORE_DONE,
                phase=Phase.RESIDENT,
                episode_id="episode-1",
                reason=Reason.IDLE,
                label="train.ipynb",
                owner="ada",
                mechanism="torch_offload",
                framework="torch 2.13.0",
                driver="580.65.06",
                footprint={"GPU-1": 1024},
                moved_bytes=1024,
                took=timedelta(seconds=0.5),
            ),
        ],
    ),
}


def in_database(file: Path, work: Callable[[Connection], object]) -> object:
    """What `work` returns, done in one transaction on the file."""
    engine = create_engine(f"sqlite:///{file}")
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


def migrate(connection: Connection, revision: str) -> None:
    """Bring an empty database to one revision."""
    config = schema.migration_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def test_every_revision_has_rows_to_show() -> None:
    """Each revision has rows here as its version wrote them, so that no step of the way goes untested."""
    assert tuple(WRITTEN_BY) == schema.revisions()


@pytest.mark.parametrize("revision", WRITTEN_BY)
async def test_rows_of_every_revision_are_read_today(
    new_log: Callable[..., SqlReclaimLog], tmp_path: Path, revision: str
) -> None:
    """A database of any earlier revision opens with all its rows, filters included, and takes new ones."""
    file = tmp_path / "old.sqlite"
    statements, expected = WRITTEN_BY[revision]

    def write(connection: Connection) -> None:
        migrate(connection, revision)
        for statement in statements:
            connection.exec_driver_sql(statement)

    in_database(file, write)
    log = new_log(f"sqlite:///{file}")
    assert await everything(log) == expected
    assert await everything(log, gpu="GPU-1") == expected
    assert await everything(log, kernel_id="kernel-1", reason=Reason.IDLE) == expected
    new = row(1, at=datetime(2030, 1, 1, tzinfo=UTC))
    await log.append([new])
    assert await everything(log) == [new, *expected]
    assert in_database(file, schema.revision_of) == schema.revisions()[-1]


async def test_the_tables_are_those_the_code_means(log: SqlReclaimLog, file: Path) -> None:
    """After all migrations the database has exactly the tables, columns and indices of `tables.py`."""
    await log.open()
    await log.close()

    def differences(connection: Connection) -> list:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        return compare_metadata(context, metadata)

    assert in_database(file, differences) == []


async def test_a_migration_happens_whole_or_not_at_all(log: SqlReclaimLog, file: Path) -> None:
    """A migration that fails half-way leaves the database as it was; with the obstacle gone it goes through."""
    file.parent.mkdir(parents=True)
    in_database(
        file, lambda connection: connection.execute(text("CREATE TABLE reclaim_transition_gpus (mine int)"))
    )
    with pytest.raises(LogUnavailable, match="already exists"):
        await log.append([row(1)])
    names = in_database(file, lambda connection: inspect(connection).get_table_names())
    assert names == ["reclaim_transition_gpus"]
    in_database(file, lambda connection: connection.execute(text("DROP TABLE reclaim_transition_gpus")))
    await log.append([row(1)])
    assert len(await everything(log)) == 1


async def test_a_database_shared_with_other_tables(log: SqlReclaimLog, file: Path) -> None:
    """Tables of another program in the same database, an `alembic_version` of its own among them, stay as they are."""
    file.parent.mkdir(parents=True)

    def occupy(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))

    in_database(file, occupy)
    await log.append([row(1)])
    theirs = in_database(
        file, lambda connection: connection.scalar(text("SELECT version_num FROM alembic_version"))
    )
    assert theirs == "theirs"
    assert len(await everything(log)) == 1


async def test_migrating_leaves_logging_alone(log: SqlReclaimLog) -> None:
    """Migrating adds no handler, switches no logger off and changes no level: logging belongs to the server."""
    before = logging_settings()
    await log.open()
    assert logging_settings() == before


def logging_settings() -> dict[str, tuple]:
    """Handlers, level and switch of the root logger and of all loggers that others had before us."""
    named = {name: logging.getLogger(name) for name in ("", "jupyter", "tornado", "alembic", "sqlalchemy")}
    return {name: (logger.level, logger.disabled, tuple(logger.handlers)) for name, logger in named.items()}
