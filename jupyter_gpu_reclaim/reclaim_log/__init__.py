"""The append-only log of transitions, on SQLAlchemy: SQLite or PostgreSQL, with a queue on disk in front."""

from jupyter_gpu_reclaim.reclaim_log.log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.personal import PersonalData
from jupyter_gpu_reclaim.reclaim_log.queued import QueuedReclaimLog

__all__ = ["PersonalData", "QueuedReclaimLog", "SqlReclaimLog"]
