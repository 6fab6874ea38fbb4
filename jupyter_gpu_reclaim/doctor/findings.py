"""What `doctor` says of one thing: whether it is right, what is the matter and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """`FAIL`: nothing is reclaimed, or nothing is seen of it, before this is cured. `WARN`: less is than could be."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sentence or two; `fix` is empty only where nothing is to be done."""

    check: str
    level: Level
    message: str
    fix: str = ""

    def __post_init__(self) -> None:
        if self.level is not Level.OK and not self.fix:
            raise ValueError(f"{self.check}: what is not right has a fix")


def ok(check: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, level=Level.OK, message=message)


def warn(check: str, message: str, fix: str) -> Finding:
    """It works, but not all of it."""
    return Finding(check=check, level=Level.WARN, message=message, fix=fix)


def fail(check: str, message: str, fix: str) -> Finding:
    """It does not work."""
    return Finding(check=check, level=Level.FAIL, message=message, fix=fix)
