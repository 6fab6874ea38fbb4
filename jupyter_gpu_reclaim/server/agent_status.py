"""What an agent last said of itself, checked: a kernel runs its user's code, so nothing it sends is taken on trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jupyter_gpu_reclaim.core.model import Phase

AGENT_PHASES = frozenset({Phase.RESIDENT, Phase.RECLAIMING, Phase.RECLAIMED, Phase.RESTORING})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """`agent.protocol.STATUS_KEYS` in the server's types. `reserved_bytes` is the allocator's, per GPU UUID."""

    phase: Phase = Phase.RESIDENT
    phase_since: datetime | None = None
    running_since: datetime | None = None
    waiting: int = 0
    room_wanted: Mapping[str, int] = field(default_factory=dict)
    room_wanted_at: datetime | None = None
    place_wanted_at: datetime | None = None
    last_active_at: datetime | None = None
    background_work: tuple[str, ...] | None = None
    allocator_active: bool | None = None
    allocated_bytes: Mapping[str, int] = field(default_factory=dict)
    reserved_bytes: Mapping[str, int] = field(default_factory=dict)
    mechanism: str | None = None
    framework: str | None = None
    unsupported: str | None = None
    host_bytes: int = 0
    spilled_bytes: int = 0
    needed_bytes: Mapping[str, int] = field(default_factory=dict)
    unmovable: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def allocator(self) -> dict[str, dict[str, int]]:
        """{GPU UUID: {"allocated_bytes", "reserved_bytes"}}, as the allocator inside the kernel has it."""
        return {
            gpu: {"allocated_bytes": self.allocated_bytes[gpu], "reserved_bytes": reserved}
            for gpu, reserved in self.reserved_bytes.items()
        }


def parse_status(message: Mapping[str, Any]) -> AgentStatus:
    """The status in a message. Raises ValueError for anything that is not what the protocol says."""
    gpus = _mapping(message.get("gpus"))
    return AgentStatus(
        phase=parse_phase(message.get("phase")),
        phase_since=_instant(message.get("phase_since_at")),
        running_since=_instant(message.get("running_since_at")),
        waiting=count(message.get("waiting", 0)),
        room_wanted=counts(message.get("room_wanted")),
        room_wanted_at=_instant(message.get("room_wanted_at")),
        place_wanted_at=_instant(message.get("place_wanted_at")),
        last_active_at=_instant(message.get("last_active_at")),
        background_work=_texts(message.get("background_work")),
        allocator_active=_flag(message.get("allocator_active")),
        allocated_bytes={uuid: count(_mapping(gpu).get("allocated_bytes", 0)) for uuid, gpu in gpus.items()},
        reserved_bytes={uuid: count(_mapping(gpu).get("reserved_bytes", 0)) for uuid, gpu in gpus.items()},
        mechanism=_text(message.get("mechanism")),
        framework=_text(message.get("framework")),
        unsupported=_text(message.get("unsupported")),
        host_bytes=count(message.get("host_bytes", 0)),
        spilled_bytes=count(message.get("spilled_bytes", 0)),
        needed_bytes=counts(message.get("needed_bytes")),
        unmovable=counts(message.get("unmovable")),
        notes=_texts(message.get("notes")) or (),
    )


def parse_phase(value: object) -> Phase:
    """One of the agent's four phases. Raises ValueError for any other."""
    phase = Phase(value)
    if phase not in AGENT_PHASES:
        raise ValueError(f"an agent is never {phase}")
    return phase


def count(value: object) -> int:
    """A number of bytes or things: an int, not negative. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"not a count: {value!r:.80}")
    return value


def counts(value: object) -> dict[str, int]:
    """Counts by name; None reads as empty. Raises ValueError."""
    return {name: count(number) for name, number in _mapping(value).items()}


def _mapping(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"not an object: {value!r:.80}")
    return value


def _instant(value: object) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"not an instant: {value!r:.80}")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"not an instant: {value!r:.80}") from error


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"not a text: {value!r:.80}")
    return value


def _texts(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"not a list of texts: {value!r:.80}")
    return tuple(value)


def _flag(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"neither yes nor no: {value!r:.80}")
    return value
