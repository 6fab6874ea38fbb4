"""The hub's tables, in the database of the fleet's log; `migrations/` is how a database gets there."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Index, MetaData, String, Table

from jupyter_gpu_reclaim.reclaim_log.schema import History
from jupyter_gpu_reclaim.reclaim_log.tables import Sequence, Storable, UtcDateTime

HUB = History("jupyter_gpu_reclaim.hub:migrations", "reclaim_hub_version")

metadata = MetaData()

# The last word of each server. `status` is what it pushed; whoever lists servers does not read it.
servers = Table(
    "reclaim_hub_servers",
    metadata,
    Column("user", Storable, primary_key=True),
    Column("server", Storable, primary_key=True),  # "" is the user's default server
    Column("node", Storable, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("status", JSON, nullable=False),
    Index("reclaim_hub_servers_seen", "seen_at"),
)

# What an administrator wants of a kernel, until its server has answered.
orders = Table(
    "reclaim_hub_orders",
    metadata,
    Column("sequence", Sequence, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("user", Storable, nullable=False),
    Column("server", Storable, nullable=False),
    Column("kernel_id", Storable, nullable=False),
    Column("label", Storable, nullable=False),
    Column("act", String, nullable=False),
    Column("until", UtcDateTime),  # of a pin
    Column("reason", Storable, nullable=False),
    Column("actor", Storable, nullable=False),
    Column("made_at", UtcDateTime, nullable=False),
    Column("answered_at", UtcDateTime),
    Column("answer", Storable),
    Index("reclaim_hub_orders_whose", "user", "server", "answered_at"),
)

# Rules that an administrator set in the page. They stand before those of the configuration, the newest first.
overrides = Table(
    "reclaim_hub_overrides",
    metadata,
    Column("sequence", Sequence, primary_key=True),
    Column("rule", JSON, nullable=False),  # as in the configuration
    Column("note", Storable, nullable=False),
    Column("actor", Storable, nullable=False),
    Column("made_at", UtcDateTime, nullable=False),
    Column("until", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("ended_by", Storable),
    Index("reclaim_hub_overrides_standing", "ended_at", "until"),
)
