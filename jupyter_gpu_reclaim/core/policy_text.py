"""Rules as operators write them, and as the Hub's service sends them to users' servers: checked on the way in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jupyter_gpu_reclaim.core.policy_rules import DAYS, MODES, OF_GPUS, TIGHTER, Hours, Match, Rule, clock

LONGEST_SECONDS = 10 * 365 * 86400.0
KNOWN = ("name", "match", "set", "lock", "priority")
_PATTERNS = ("users", "groups", "servers", "profiles", "gpus", "kernelspecs")
_HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


class BadRule(ValueError):
    """A rule that cannot be taken. `path` leads to the word that is wrong; the message says what is."""

    def __init__(self, path: tuple[str, ...], reason: str) -> None:
        super().__init__(f"{'.'.join(path)}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


def rule_from(data: Any, where: str = "") -> Rule:
    """The rule in `data`: {name, match, set, lock, priority}, all optional but `set`. Raises `BadRule`."""
    body = _map(data, (), KNOWN)
    name = body.get("name", where)
    if not isinstance(name, str):
        raise BadRule(("name",), f"a text is expected, not {name!r}")
    if "set" not in body and "priority" not in body:
        raise BadRule((), "a rule must say what it sets, as `set: {idle_after_seconds: 600}`")
    settings = _map(body.get("set", {}), ("set",), tuple(TIGHTER))
    made = {key: _setting(key, value) for key, value in settings.items()}
    match = _match(body.get("match", {}))
    if match.kernelspecs:
        _of_a_kernel(made)
    priority = body.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise BadRule(("priority",), f"a whole number is expected, not {priority!r}")
    return Rule(
        name=name,
        match=match,
        settings=made,
        locked=_locked(body.get("lock", ()), made),
        priority=priority,
        where=where,
    )


def rule_to(rule: Rule) -> dict[str, Any]:
    """What `rule_from` makes the same rule of, as JSON."""
    match: dict[str, Any] = {name: list(getattr(rule.match, name)) for name in _PATTERNS}
    match["days"] = [DAYS[day] for day in rule.match.days]
    hours = rule.match.hours
    match["hours"] = "" if hours is None else f"{clock(hours.begin)}-{clock(hours.end)}"
    return {
        "name": rule.name,
        "match": {name: value for name, value in match.items() if value},
        "set": dict(rule.settings),
        "lock": sorted(rule.locked),
        "priority": rule.priority,
    }


def _match(data: Any) -> Match:
    body = _map(data, ("match",), (*_PATTERNS, "days", "hours"))
    patterns = {name: _texts(body[name], ("match", name)) for name in _PATTERNS if name in body}
    days = _texts(body.get("days", ()), ("match", "days"))
    for day in days:
        if day not in DAYS:
            raise BadRule(("match", "days"), f"days are {', '.join(DAYS)}, not {day!r}")
    return Match(
        **patterns, days=tuple(sorted({DAYS.index(day) for day in days})), hours=_hours(body.get("hours"))
    )


def _hours(text: Any) -> Hours | None:
    if text is None:
        return None
    found = _HOURS.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise BadRule(("match", "hours"), f'hours are written "22:00-06:00", not {text!r}')
    begin_hour, begin_minute, end_hour, end_minute = map(int, found.groups())
    begin, end = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if begin_minute > 59 or end_minute > 59 or begin >= 1440 or end > 1440 or begin == end:
        raise BadRule(("match", "hours"), f"these are no hours of a day: {text!r}")
    return Hours(begin=begin, end=end)


def _setting(name: str, value: Any) -> Any:
    path = ("set", name)
    if name == "mode":
        if value not in MODES:
            raise BadRule(
                path, f"a mode is one of {', '.join(MODES)}, not {value!r}; quote on and off in YAML"
            )
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if name.endswith("_bytes"):
        if not number or value != int(min(value, 1 << 62)) or value < 0:
            raise BadRule(path, f"a whole number of bytes, 0 or more, is expected, not {value!r}")
        return int(value)
    if not number or not 0 <= value <= LONGEST_SECONDS:
        raise BadRule(path, f"a number of seconds from 0 to ten years is expected, not {value!r}")
    return float(value)


def _of_a_kernel(settings: Mapping[str, Any]) -> None:
    """Raises `BadRule` unless kernels of one server may differ in all of these."""
    for name in settings:
        if name in OF_GPUS:
            raise BadRule(("set", name), "it is about a whole GPU; set it in a rule without kernelspecs")
    if settings.get("mode") == "dry_run":
        raise BadRule(("set", "mode"), "dry_run is for a whole server; with kernelspecs a mode is on or off")


def _locked(data: Any, settings: Mapping[str, Any]) -> frozenset[str]:
    if data == "all":
        return frozenset(settings)
    names = _texts(data, ("lock",))
    for name in names:
        if name not in settings:
            raise BadRule(("lock",), f"{name!r} is locked but not set in this rule")
    return frozenset(names)


def _map(data: Any, path: tuple[str, ...], known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise BadRule(path, f"a map is expected, not {data!r}")
    for key in data:
        if key not in known:
            raise BadRule((*path, str(key)), f"there is no {key!r} here; there are: {', '.join(known)}")
    return data


def _texts(data: Any, path: tuple[str, ...]) -> tuple[str, ...]:
    items = [data] if isinstance(data, str) else data
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise BadRule(path, f"a text or a list of texts is expected, not {data!r}")
    return tuple(items)
