"""What the hub keeps beside the log: servers as last seen, orders of administrators, overrides of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Act(StrEnum):
    """What may be ordered of a kernel."""

    RECLAIM = "reclaim"
    PIN = "pin"
    UNPIN = "unpin"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenServer:
    """One user's server. `status` is the body of its own GET status; {} where it was not asked for."""

    user: str
    server: str  # "" is the user's default server
    node: str  # the machine it runs on, by its own word
    seen_at: datetime
    status: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an administrator wants of somebody's kernel, and why; the user is shown both."""

    id: str
    user: str
    server: str
    kernel_id: str
    act: Act
    reason: str
    actor: str
    made_at: datetime
    label: str = ""  # the notebook, as it was shown to who made the order
    until: datetime | None = None  # of a pin
    answered_at: datetime | None = None
    answer: str | None = None  # what the server said, as a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A rule that was set in the page. It holds until `until`, or until somebody ends it."""

    number: int
    rule: Mapping[str, Any]  # as in the configuration
    note: str
    actor: str
    made_at: datetime
    until: datetime | None = None
    ended_at: datetime | None = None
    ended_by: str | None = None
