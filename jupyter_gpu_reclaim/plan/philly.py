"""The format of Microsoft's Philly trace (ATC '19), `cluster_job_log`: jobs and their attempts, no cells.

It says when a job held which GPUs, not what it did with them. Each attempt is read as one cell that was busy all along,
each user as one kernel, and a GPU as full, so that this is an upper limit of the use, not a recording of notebooks.
Attempts on several GPUs are read as one cell on one GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.plan.costs import GIB
from jupyter_gpu_reclaim.plan.trace import SECOND, BadTrace, Row, Trace, assembled

GPU_BYTES = 12 * GIB
"""Assumed of each attempt: the trace has GPUs of 12 and of 24 GB, and no memory used."""


def read(path: Path) -> Trace:
    """Read a `cluster_job_log`. Raises `BadTrace`, `OSError`."""
    try:
        jobs = json.loads(path.read_text(encoding="utf-8"))
        attempts = sorted(_attempts(jobs))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadTrace(f"{path} is no cluster_job_log of Philly: {type(error).__name__}: {error}") from None
    if not attempts:
        raise BadTrace(f"{path}: no attempt in it has both a beginning and an end")
    beginning = attempts[0][0]
    rows = [
        Row(
            user,
            user,
            f"{user} (Philly)",
            _microseconds(began - beginning),
            _microseconds(ended - began),
            GPU_BYTES,
        )
        for began, ended, user in attempts
    ]
    return assembled(rows)


def _attempts(jobs: list[Mapping[str, Any]]) -> Iterator[tuple[datetime, datetime, str]]:
    for job in jobs:
        for attempt in job["attempts"]:
            began, ended = attempt.get("start_time"), attempt.get("end_time")
            if began and ended and attempt.get("detail") and ended != "None" and began != "None":
                began_at, ended_at = datetime.fromisoformat(began), datetime.fromisoformat(ended)
                if ended_at >= began_at:
                    yield began_at, ended_at, job["user"]


def _microseconds(span: Any) -> int:
    return round(span.total_seconds() * SECOND)
