"""Where a listing stopped, as a string that callers only hand back.

It names the last row given by (at, sequence). A row never changes that pair and no two rows share it, so a page that
starts there neither skips nor repeats a row, however many were appended in between.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

from jupyter_gpu_reclaim.ports import BadCursor

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LARGEST_SEQUENCE = 2**63 - 1


def to_cursor(at: datetime, sequence: int) -> str:
    """The cursor of the row that stands there."""
    microseconds = (at - EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{microseconds}:{sequence}".encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> tuple[datetime, int]:
    """The (at, sequence) that `to_cursor` was given. Raises `BadCursor` for a string it never gives."""
    try:
        plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        microseconds, sequence = (int(part) for part in plain.split(":"))
        place = (EPOCH + timedelta(microseconds=microseconds), sequence)
        genuine = to_cursor(*place) == cursor and 0 < sequence <= LARGEST_SEQUENCE
    except (ValueError, OverflowError):
        genuine = False
    if not genuine:
        raise BadCursor(f"{cursor[:80]!r} is not a cursor of this log: start again from the first page")
    return place
