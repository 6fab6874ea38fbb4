"""Which rule holds for whom and when, and that nobody gets looser than it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_reclaim.core.kernelspecs import of_kernelspec
from jupyter_gpu_reclaim.core.model import Policy
from jupyter_gpu_reclaim.core.policy_rules import (
    MODES,
    OF_GPUS,
    TIGHTER,
    Setting,
    Subject,
    bounded,
    first_fit,
    fits,
    in_force,
    narrowed,
    unfit,
)
from jupyter_gpu_reclaim.core.policy_text import BadRule, rule_from, rule_to

MONDAY_NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
ADA = Subject(user="ada", groups=frozenset({"course", "staff"}), gpus=frozenset({"NVIDIA A100-SXM4-40GB"}))

spans = st.floats(0, 1e6)
values = {name: spans for name in TIGHTER if name.endswith("_seconds")}
values |= {name: st.integers(0, 2**40) for name in TIGHTER if name.endswith("_bytes")}
values["mode"] = st.sampled_from(MODES)
settings_of_a_rule = st.fixed_dictionaries({}, optional=values)


def own(settings: dict) -> Policy:
    """A user's policy with these settings, by their names in the configuration."""
    policy, _ = bounded(Policy(), (), rule_from({"set": settings}))
    return policy


@given(settings_of_a_rule, settings_of_a_rule, st.sets(st.sampled_from(sorted(TIGHTER))), st.booleans())
def test_nobody_gets_looser_than_the_rule(rule: dict, wished: dict, chosen: set[str], locked: bool) -> None:
    """Whatever a user sets, each setting a rule makes is at least as tight as there, and as there where locked."""
    mine = own(wished)
    made = rule_from({"set": rule, "lock": "all" if locked else []})
    policy, found = bounded(mine, chosen, made)
    assert found.keys() == rule.keys()
    for name, setting in found.items():
        assert TIGHTER[name](setting.value) >= TIGHTER[name](made.settings[name])
        assert setting.by == "rule" or (name in chosen and not locked)
        assert not locked or setting == Setting(made.settings[name], "rule", True)
    untouched = own({name: value for name, value in wished.items() if name not in rule})
    assert own({}) == Policy()
    for name in set(TIGHTER) - rule.keys():
        field = name.removesuffix("_seconds")
        assert getattr(policy, field) == getattr(untouched, field)


@given(settings_of_a_rule, st.lists(st.sampled_from(("a*", "b", "ü"))), st.integers(-9, 9))
def test_a_rule_survives_the_way_to_a_server(settings: dict, patterns: list[str], priority: int) -> None:
    """What the service sends is the same rule when a server has read it."""
    match = {"users": patterns, "groups": patterns, "days": ["sun", "mon"], "hours": "22:00-24:00"}
    if not settings.keys() & OF_GPUS and settings.get("mode") != "dry_run":
        match["kernelspecs"] = patterns
    rule = rule_from(
        {"name": "n", "match": match, "set": settings, "lock": "all", "priority": priority}, "here"
    )
    assert rule_from(rule_to(rule), "here") == rule


def test_a_default_of_the_users_server_is_not_a_wish() -> None:
    """A rule with more patience than the default is not undone by that default, only by the user's own word."""
    patient = rule_from({"set": {"idle_after_seconds": 7200}})
    assert bounded(Policy(), (), patient)[0].idle_after == timedelta(hours=2)
    assert bounded(Policy(), {"idle_after_seconds"}, patient)[0].idle_after == Policy().idle_after


def test_the_first_rule_that_fits_counts() -> None:
    """Rules are tried in order; one fits when all its conditions do, by user, group, server, profile, GPU."""
    rules = [
        rule_from({"name": "other", "match": {"users": "b*", "groups": "staff"}, "set": {"mode": "off"}}),
        rule_from({"name": "big", "match": {"gpus": "*H100*"}, "set": {"mode": "off"}}),
        rule_from({"name": "profile", "match": {"profiles": ["small"]}, "set": {"mode": "off"}}),
        rule_from({"name": "named", "match": {"servers": "?*"}, "set": {"mode": "off"}}),
        rule_from(
            {"name": "course", "match": {"groups": ["course"], "gpus": ["*A100*"]}, "set": {"mode": "off"}}
        ),
        rule_from({"name": "all", "set": {"mode": "on"}}),
    ]
    assert first_fit(rules, ADA, MONDAY_NOON, UTC).name == "course"
    assert first_fit(rules, Subject(user="x"), MONDAY_NOON, UTC).name == "all"
    assert first_fit(rules, Subject(user="x", profile="small"), MONDAY_NOON, UTC).name == "profile"
    assert first_fit(rules, Subject(user="x", server="two"), MONDAY_NOON, UTC).name == "named"
    assert first_fit(rules[:1], ADA, MONDAY_NOON, UTC) is None
    assert unfit(rules[1], ADA, MONDAY_NOON, UTC) == "It is for gpus *H100*; here: 'NVIDIA A100-SXM4-40GB'."


@pytest.mark.parametrize(
    ("match", "local", "expected"),
    [
        ({"hours": "09:00-17:00"}, "2026-03-02T09:00", True),
        ({"hours": "09:00-17:00"}, "2026-03-02T17:00", False),
        ({"hours": "22:00-06:00"}, "2026-03-02T23:59", True),
        ({"hours": "22:00-06:00"}, "2026-03-03T05:59", True),
        ({"hours": "22:00-06:00"}, "2026-03-03T06:00", False),
        ({"days": ["mon"], "hours": "22:00-06:00"}, "2026-03-03T03:00", True),
        ({"days": ["mon"], "hours": "22:00-06:00"}, "2026-03-02T03:00", False),
        ({"days": ["sat", "sun"]}, "2026-03-01T12:00", True),
        ({"days": ["sat", "sun"]}, "2026-03-02T12:00", False),
        ({"hours": "18:00-24:00"}, "2026-03-02T23:59", True),
        ({"hours": "02:30-03:30"}, "2026-03-29T03:15", True),  # the hour from 2 to 3 does not exist that day
    ],
)
def test_hours_and_days_are_those_of_the_zone(match: dict, local: str, expected: bool) -> None:
    """A rule holds by the clock on the operator's wall; hours over midnight belong to the day in which they begin."""
    at = datetime.fromisoformat(local).replace(tzinfo=BERLIN).astimezone(UTC)
    rule = rule_from({"match": match, "set": {"mode": "off"}})
    assert fits(rule, ADA, at, BERLIN) is expected


def test_a_server_is_told_only_what_can_concern_it() -> None:
    """Rules for others, and those behind one that always holds, stay with the service; whom a rule is for does, too."""
    rules = [
        rule_from({"name": "eve", "match": {"users": "eve"}, "set": {"mode": "off"}}),
        rule_from({"name": "night", "match": {"users": "a*", "hours": "22:00-06:00"}, "set": {"mode": "on"}}),
        rule_from({"name": "course", "match": {"groups": "course"}, "set": {"mode": "off"}}),
        rule_from({"name": "all", "set": {"mode": "on"}}),
    ]
    told = narrowed(rules, ADA)
    assert [rule.name for rule in told] == ["night", "course"]
    assert rule_to(told[0])["match"] == {"hours": "22:00-06:00"}
    for hour in range(24):
        at = MONDAY_NOON + timedelta(hours=hour)
        assert first_fit(told, Subject(user=""), at, BERLIN).name == first_fit(rules, ADA, at, BERLIN).name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["no map"], "a map is expected, not ['no map']"),
        ({"match": {}}, "a rule must say what it sets, as `set: {idle_after_seconds: 600}`"),
        ({"set": {"idle_afer": 1}}, "set.idle_afer: there is no 'idle_afer' here"),
        ({"set": {"idle_after_seconds": "soon"}}, "set.idle_after_seconds: a number of seconds"),
        ({"set": {"idle_after_seconds": True}}, "set.idle_after_seconds: a number of seconds"),
        ({"set": {"idle_after_seconds": float("nan")}}, "set.idle_after_seconds: a number of seconds"),
        ({"set": {"headroom_bytes": 1.5}}, "set.headroom_bytes: a whole number of bytes"),
        ({"set": {"headroom_bytes": float("inf")}}, "set.headroom_bytes: a whole number of bytes"),
        ({"set": {"mode": True}}, "set.mode: a mode is one of off, dry_run, on"),
        ({"match": {"hours": "9-17"}, "set": {}}, "match.hours: hours are written"),
        ({"match": {"hours": "25:00-26:00"}, "set": {}}, "match.hours: these are no hours of a day"),
        ({"match": {"days": "monday"}, "set": {}}, "match.days: days are mon, tue"),
        ({"match": {"users": [1]}, "set": {}}, "match.users: a text or a list of texts"),
        ({"set": {"mode": "on"}, "lock": ["headroom_bytes"]}, "lock: 'headroom_bytes' is locked but not set"),
        (
            {"match": {"kernelspecs": "a"}, "set": {"headroom_bytes": 1}},
            "set.headroom_bytes: it is about a whole",
        ),
        (
            {"match": {"kernelspecs": "a"}, "set": {"mode": "dry_run"}},
            "set.mode: dry_run is for a whole server",
        ),
        ({"set": {}, "priority": "low"}, "priority: a whole number is expected"),
        ({"set": {}, "name": 3}, "name: a text is expected"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_place(data: object, message: str) -> None:
    """Each kind of mistake is told with the way to the word that is wrong, and what is expected there."""
    with pytest.raises(BadRule) as raised:
        rule_from(data)
    assert str(raised.value).startswith(message)


SPECS = [
    rule_from(
        {
            "name": "torch",
            "match": {"kernelspecs": ["torch*"]},
            "set": {"idle_after_seconds": 60},
            "priority": -2,
        }
    ),
    rule_from({"name": "off", "match": {"kernelspecs": "r"}, "set": {"mode": "off"}}),
    rule_from({"name": "all", "set": {"idle_after_seconds": 600}, "lock": "all", "priority": 1}),
    rule_from({"name": "never", "match": {"kernelspecs": "*"}, "set": {"mode": "off"}}),
]


def test_rules_for_kernelspecs_hold_for_such_kernels_in_place_of_the_servers() -> None:
    """Those before the server's rule count, in their order; one that is behind it never does."""
    own = Policy(cooldown=timedelta(seconds=7))
    made = in_force(own, (), SPECS, ADA, MONDAY_NOON, UTC)
    assert (made.rule.name, [rule.name for rule, _ in made.kernelspecs]) == ("all", ["torch", "off"])
    assert made.policy.idle_after == timedelta(minutes=10)
    found = {name: of_kernelspec(name, made.policy) for name in ("torch-2", "r", "python3")}
    assert {name: (p.idle_after.total_seconds(), p.mode, p.rule_priority) for name, p in found.items()} == {
        "torch-2": (60, "on", -2),
        "r": (1200, "off", 0),
        "python3": (600, "on", 1),
    }
    assert {p.cooldown for p in found.values()} == {own.cooldown}
    assert made.kernelspecs[0][1] == {"idle_after_seconds": Setting(60.0, "rule", False)}
    asked = [replace(ADA, kernelspec=name) for name in (None, "torch-2", "r", "julia")]
    assert [first_fit(SPECS, subject, MONDAY_NOON, UTC).name for subject in asked] == [
        "all",
        "torch",
        "off",
        "all",
    ]
    assert unfit(SPECS[0], ADA, MONDAY_NOON, UTC) == "It is for kernelspecs torch*; here: none known."


def test_a_server_is_told_rules_for_its_kernels() -> None:
    """The service cannot know what kernels will come: their rules go to the server, and those behind them."""
    told = narrowed(SPECS, ADA)
    assert [(rule.name, rule.match.kernelspecs) for rule in told] == [
        ("torch", ("torch*",)),
        ("off", ("r",)),
        ("all", ()),
    ]
    assert in_force(Policy(), (), told, Subject(user=""), MONDAY_NOON, UTC) == in_force(
        Policy(), (), SPECS, ADA, MONDAY_NOON, UTC
    )


@pytest.mark.parametrize(
    ("server", "kernel", "chosen", "expected"),
    [
        ("on", "off", "on", "off"),
        ("off", "on", "on", "on"),
        ("dry_run", "on", "on", "dry_run"),
        ("dry_run", "off", "on", "off"),
        ("off", None, "on", "off"),
        ("on", "off", "dry_run", "off"),  # a user's dry run, where the server is on by rule
    ],
)
def test_in_a_servers_dry_run_no_kernel_moves(
    server: str, kernel: str | None, chosen: str, expected: str
) -> None:
    """Kernels of a spec are off or on beside their server; a dry run is a whole server's, or nobody's."""
    special = {"set": {} if kernel is None else {"mode": kernel}, "match": {"kernelspecs": "x"}}
    rules = [rule_from(special), rule_from({"set": {"mode": server}})]
    wished = {"mode"} if chosen != "on" else set()
    made = in_force(Policy(mode=chosen), wished, rules, ADA, MONDAY_NOON, UTC)
    assert made.policy.mode == server
    assert of_kernelspec("x", made.policy).mode == expected
