"""Which rule of an operator's holds for a user's server now, and what it makes of that server's own policy.

The first rule that fits counts. Its settings are bounds: a user's own setting counts where it is tighter, that is where
it gives the GPU back sooner, and never where it is looser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, tzinfo
from fnmatch import fnmatchcase
from typing import Any

from jupyter_gpu_reclaim.core.model import KernelspecPolicy, Policy

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MODES = ("off", "dry_run", "on")  # looser first
TIGHTER: Mapping[str, Callable[[Any], Any]] = {
    "mode": MODES.index,
    "idle_after_seconds": lambda seconds: -seconds,
    "warn_before_seconds": lambda seconds: -seconds,
    "pressure_idle_after_seconds": lambda seconds: -seconds,
    "pressure_grace_seconds": lambda seconds: -seconds,
    "cooldown_seconds": lambda seconds: -seconds,
    "max_pin_seconds": lambda seconds: -seconds,
    "headroom_bytes": lambda count: count,
    "min_reclaim_bytes": lambda count: -count,
}
"""Each setting that a rule may make, by its name in the configuration: the tighter value has the greater key."""
OF_GPUS = ("headroom_bytes", "pressure_grace_seconds")
"""Those of them that are about a whole GPU: no rule for some kernelspecs may make them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One server, as far as rules may ask. `gpus` are names of models."""

    user: str
    groups: frozenset[str] = frozenset()
    server: str = ""  # "": the user's default server
    profile: str | None = None  # what it was started as; None: no profile is known
    gpus: frozenset[str] = frozenset()
    kernelspec: str | None = None  # of one of its kernels; None: the server as a whole is meant


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """From `begin` to before `end`, minutes of the day. An `end` that is not later lies in the next day."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Whom and when a rule is for. Patterns, in which `*` stands for any text; () is everybody, or always."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    kernelspecs: tuple[str, ...] = ()  # where there are any the rule is for such kernels, not for the server
    days: tuple[int, ...] = ()  # 0 is Monday; hours that reach over midnight belong to the day they begin in
    hours: Hours | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`settings` by their names in the configuration; of these, the user may not even tighten the `locked` ones."""

    name: str
    match: Match = Match()
    settings: Mapping[str, Any] = field(default_factory=dict)
    locked: frozenset[str] = frozenset()
    priority: int = 0  # whose kernels give way first to other servers: the lower
    where: str = ""  # where it is written, for people


@dataclass(frozen=True, slots=True)
class Setting:
    """What a setting is, and who says so."""

    value: Any
    by: str  # "rule" or "user", who is tighter than the rule asks
    locked: bool


def fits(rule: Rule, subject: Subject, at: datetime, zone: tzinfo) -> bool:
    """Whether the rule holds for that server at that instant."""
    return unfit(rule, subject, at, zone) is None


def unfit(rule: Rule, subject: Subject, at: datetime, zone: tzinfo) -> str | None:
    """Why the rule does not hold, as a sentence; None: it does."""
    return _not_for(rule.match, subject) or _not_now(rule.match, at, zone)


def first_fit(rules: Iterable[Rule], subject: Subject, at: datetime, zone: tzinfo) -> Rule | None:
    """The rule that counts; None: none does, and the server's own policy stands."""
    return next((rule for rule in rules if fits(rule, subject, at, zone)), None)


def narrowed(rules: Iterable[Rule], subject: Subject) -> list[Rule]:
    """The rules that hold for this server at some time, as far as one can come to count: what is left is when, and
    for which of its kernels."""
    found: list[Rule] = []
    for rule in rules:
        if _not_for(replace(rule.match, kernelspecs=()), subject) is None:
            match = rule.match
            left = Match(kernelspecs=match.kernelspecs, days=match.days, hours=match.hours)
            found.append(replace(rule, match=left))
            if left == Match():
                break
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What the rules make of a server's own policy at an instant."""

    policy: Policy
    rule: Rule | None  # that holds for the server; None: none does
    settings: Mapping[str, Setting]  # that it makes
    kernelspecs: tuple[tuple[Rule, Mapping[str, Setting]], ...] = ()  # as `policy.by_kernelspec`


def in_force(
    own: Policy, chosen: Iterable[str], rules: Iterable[Rule], subject: Subject, at: datetime, zone: tzinfo
) -> Ruling:
    """See `bounded`, for the server and for the kernelspecs of rules that are tried before the one for the server."""
    wished = frozenset(chosen)
    special: list[Rule] = []
    rule: Rule | None = None
    for one in rules:
        if fits(replace(one, match=replace(one.match, kernelspecs=())), subject, at, zone):
            if not one.match.kernelspecs:
                rule = one
                break
            special.append(one)
    policy, settings = bounded(own, wished, rule)
    made: list[KernelspecPolicy] = []
    shown: list[tuple[Rule, Mapping[str, Setting]]] = []
    for one in special:
        narrow, of_it = bounded(own, wished, one)
        mode = _mode_beside(policy.mode, narrow.mode if "mode" in of_it else policy.mode)
        if "mode" in of_it:
            of_it["mode"] = replace(of_it["mode"], value=mode)
        made.append(KernelspecPolicy(kernelspecs=one.match.kernelspecs, policy=replace(narrow, mode=mode)))
        shown.append((one, of_it))
    return Ruling(
        policy=replace(policy, by_kernelspec=tuple(made)),
        rule=rule,
        settings=settings,
        kernelspecs=tuple(shown),
    )


def bounded(own: Policy, chosen: Iterable[str], rule: Rule | None) -> tuple[Policy, dict[str, Setting]]:
    """A server's own policy within the rule's bounds, and where each setting that the rule makes comes from.

    `chosen` are the settings that the user has made: a default is nobody's wish. Without a rule it stays as it is.
    """
    if rule is None:
        return own, {}
    wished = frozenset(chosen)
    found: dict[str, Setting] = {}
    for name, value in rule.settings.items():
        mine = _setting_of(own, name)
        locked = name in rule.locked
        tighter = not locked and name in wished and TIGHTER[name](mine) > TIGHTER[name](value)
        found[name] = Setting(mine, "user", False) if tighter else Setting(value, "rule", locked)
    fields = dict(_field(name, made.value) for name, made in found.items())
    return replace(own, rule_priority=rule.priority, **fields), found


def _not_for(match: Match, subject: Subject) -> str | None:
    asked: Sequence[tuple[str, tuple[str, ...], Iterable[str]]] = (
        ("users", match.users, (subject.user,)),
        ("groups", match.groups, subject.groups),
        ("servers", match.servers, (subject.server,)),
        ("profiles", match.profiles, () if subject.profile is None else (subject.profile,)),
        ("gpus", match.gpus, subject.gpus),
        ("kernelspecs", match.kernelspecs, () if subject.kernelspec is None else (subject.kernelspec,)),
    )
    for what, patterns, values in asked:
        if patterns and not any(fnmatchcase(value, pattern) for value in values for pattern in patterns):
            found = ", ".join(repr(value) for value in sorted(values)) or "none known"
            return f"It is for {what} {', '.join(patterns)}; here: {found}."
    return None


def _not_now(match: Match, at: datetime, zone: tzinfo) -> str | None:
    local = at.astimezone(zone)
    minute, day, hours = local.hour * 60 + local.minute, local.weekday(), match.hours
    if hours is not None:
        over_midnight = hours.end <= hours.begin
        inside = hours.begin <= minute < hours.end
        if over_midnight:
            inside = minute >= hours.begin or minute < hours.end
            day = (day - 1) % 7 if minute < hours.end else day
        if not inside:
            return f"It is for {clock(hours.begin)}-{clock(hours.end)}; it is {clock(minute)} in {zone}."
    if match.days and day not in match.days:
        return f"It is for {', '.join(DAYS[n] for n in match.days)}; it is {DAYS[day]} in {zone}."
    return None


def _mode_beside(server: str, kernel: str) -> str:
    """A kernel's mode in a server of that mode: in a server's dry run nothing moves, and no kernel has one alone."""
    if kernel == "off" or server == kernel:
        return kernel
    if server == "dry_run":
        return server
    return "off" if kernel == "dry_run" else kernel


def clock(minute: int) -> str:
    """A minute of the day as "HH:MM"."""
    return f"{minute // 60:02}:{minute % 60:02}"


def _setting_of(policy: Policy, name: str) -> Any:
    value = getattr(policy, name.removesuffix("_seconds"))
    return value.total_seconds() if isinstance(value, timedelta) else value


def _field(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_seconds"):
        return name.removesuffix("_seconds"), timedelta(seconds=value)
    return name, value
