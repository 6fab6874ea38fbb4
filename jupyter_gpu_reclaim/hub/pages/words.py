"""How the pages write figures and instants, as the sidebar does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from jupyter_gpu_reclaim.core.explain import human_bytes, human_span


def instant_in_words(at: datetime | None, now: datetime) -> str:
    """The time of day in UTC; with the date, where that is not today's; a dash for None."""
    if at is None:
        return "–"
    at, now = at.astimezone(UTC), now.astimezone(UTC)
    return f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M:%S}"


def since_in_words(at: datetime | None, now: datetime) -> str:
    """How long ago; a dash for None."""
    return "–" if at is None else human_span(now - at)


def seconds_in_words(span: timedelta | None) -> str:
    """A short span, to the hundredth of a second; a dash for None."""
    return "–" if span is None else f"{span.total_seconds():.2f} s"


def share(part: int, whole: int) -> str:
    """A part of a whole in percent of it, for the width of a bar."""
    return f"{min(100.0, 100 * part / whole):.3f}" if whole else "0"


FILTERS = {
    "bytes": human_bytes,
    "at": instant_in_words,
    "since": since_in_words,
    "seconds": seconds_in_words,
}
