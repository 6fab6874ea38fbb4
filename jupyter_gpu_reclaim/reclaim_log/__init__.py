"""The append-only log of transitions, on SQLAlchemy: `SqlReclaimLog(db_url)` on SQLite or PostgreSQL."""

from jupyter_gpu_reclaim.reclaim_log.log import SqlReclaimLog

__all__ = ["SqlReclaimLog"]
