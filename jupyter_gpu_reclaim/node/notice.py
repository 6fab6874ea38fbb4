"""A notice: for how many bytes on each GPU one server's restores wait. Written as JSON, read with doubt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

VERSION = 1
MAX_FILE_BYTES = 16 << 10
MAX_GPUS = 64
MAX_UUID_LENGTH = 96
MAX_WAITING_BYTES = 1 << 44  # 16 TiB on one GPU: more is no claim but an attack on the sum


class Garbage(ValueError):
    """This is no notice; it is ignored."""


def to_json(waiting: Mapping[str, int], since: datetime | None) -> bytes:
    """The notice as bytes. `since` is for people who look into the directory."""
    return json.dumps(
        {
            "version": VERSION,
            "waiting_bytes": {
                uuid: min(n, MAX_WAITING_BYTES) for uuid, n in sorted(waiting.items()) if n > 0
            },
            "since": None if since is None else since.astimezone(UTC).isoformat(),
        }
    ).encode()


def from_json(text: bytes) -> dict[str, int]:
    """{GPU uuid: bytes} of a notice, whatever its writer intended. Raises `Garbage`."""
    try:
        notice = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Garbage(f"no JSON: {type(error).__name__}") from error
    if not isinstance(notice, dict) or notice.get("version") != VERSION:
        raise Garbage("another version, or none")
    waiting = notice.get("waiting_bytes")
    if not isinstance(waiting, dict) or len(waiting) > MAX_GPUS:
        raise Garbage("no map of bytes by GPU, or one too long")
    for uuid, n in waiting.items():
        if len(uuid) > MAX_UUID_LENGTH or type(n) is not int or not 0 < n <= MAX_WAITING_BYTES:
            raise Garbage("a GPU or a number of bytes out of bounds")
    return waiting
