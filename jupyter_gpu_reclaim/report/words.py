"""What is typed on the command line, as values."""

from __future__ import annotations

from argparse import Namespace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.core.episodes import rows_of
from jupyter_gpu_reclaim.core.model import Event, Reason
from jupyter_gpu_reclaim.reclaim_log.place import configured_db_url, nothing_there, own_folder
from jupyter_gpu_reclaim.report.listing import moment


class Misread(Exception):
    """A word that means nothing; the message says what would."""


class NoLog(Exception):
    """There is nothing to read yet."""


def db_url(arguments: Namespace) -> str:
    """Where the log is. Raises `NoLog`."""
    url = arguments.db_url or configured_db_url()
    if nothing_there(url):
        raise NoLog(f"There is no log at {url} yet: it is made with the first reclaim, or see db_url.")
    return url


def queue(arguments: Namespace) -> Path | None:
    """Where rows wait for the log that is read; None where it is not the one this user's servers write."""
    return own_folder() if arguments.db_url in (None, configured_db_url()) else None


def filters(arguments: Namespace) -> dict[str, Any]:
    """What is asked of the log. Raises `Misread`."""
    events = [_member(Event, word) for word in arguments.event or ()]
    if arguments.outcome is not None:
        try:
            events = rows_of(arguments.outcome, events)
        except ValueError as error:
            raise Misread(f"--outcome {arguments.outcome}: {error}") from error
    if arguments.limit is not None and arguments.limit < 1:
        raise Misread("--limit is 1 or more")
    return {
        "kernel_id": arguments.kernel,
        "gpu": arguments.gpu,
        "reason": None if arguments.reason is None else _member(Reason, arguments.reason),
        "events": events,
        "owner": arguments.user,
        "label": arguments.notebook,
        "mechanism": arguments.mechanism,
        "since": instant(arguments.since),
        "until": instant(arguments.until),
    }


def instant(word: str | None) -> datetime | None:
    """`7d` ago or an instant. Raises `Misread`."""
    try:
        return None if word is None else moment(word)
    except (ValueError, OverflowError):
        raise Misread(
            f"{word} is no time: write 7d (m, h, d, w), or an instant such as 2026-03-01T09:00"
        ) from None


def _member(kind: type[Enum], word: str) -> Any:
    try:
        return kind(word)
    except ValueError:
        raise Misread(f"{word} is none of {', '.join(member.value for member in kind)}") from None
