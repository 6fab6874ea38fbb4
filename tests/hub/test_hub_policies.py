"""The operator's rules as files: what is wrong is told with its line, and a wrong change leaves what held before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fleet_words import kernel, server, status

from jupyter_gpu_reclaim.core.policy_rules import Subject
from jupyter_gpu_reclaim.hub.policies import BadPolicies, Book, Policies, book_from, book_of
from jupyter_gpu_reclaim.hub.records import Override

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
GOOD = """\
timezone: Europe/Berlin
rules:
  - name: course
    match: {groups: [course], hours: "08:00-18:00"}
    set:
      idle_after_seconds: 300
    lock: all
  - set: {mode: dry_run}
    priority: -1
"""


def test_rules_are_read_with_their_lines() -> None:
    """A file's rules know where they stand, so that whoever is told of one can find it."""
    book = book_from(GOOD, "p.yaml")
    assert [(rule.name, rule.where) for rule in book.rules] == [
        ("course", "p.yaml line 3"),
        ("p.yaml line 8", "p.yaml line 8"),
    ]
    assert str(book.zone) == "Europe/Berlin"
    assert book.rules[1].priority == -1


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("300", "soon", "p.yaml line 6: set.idle_after_seconds: a number of seconds from 0 to ten years is"),
        ("Europe/Berlin", "Europe/Berln", "p.yaml line 1: there is no time zone 'Europe/Berln'"),
        ("[course]", "[course", "p.yaml line 4: this is no YAML"),
        ("lock: all", "lock: mode", "p.yaml line 7: lock: 'mode' is locked but not set"),
        ("dry_run}", "dry_run, mode: off}", "p.yaml line 8: set.mode: it is there twice"),
        ("priority", "priorty", "p.yaml line 9: priorty: there is no 'priorty' here"),
        ("rules:", "rulez:", "p.yaml line 1: a map of `timezone` and `rules` is expected"),
    ],
)
def test_a_mistake_is_told_with_its_line(before: str, after: str, message: str) -> None:
    """Whatever is wrong in the file, the message begins with the line that has to be changed."""
    with pytest.raises(BadPolicies) as raised:
        book_from(GOOD.replace(before, after), "p.yaml")
    assert str(raised.value).startswith(message)


def test_a_mistake_in_python_is_told_with_the_rules_number() -> None:
    """Rules in Python have no line; they are counted."""
    with pytest.raises(BadPolicies, match=r"^Rule 2 of the policies: set\.mode"):
        book_of([{"set": {}}, {"set": {"mode": "gone"}}])


def test_a_wrong_change_leaves_what_held_before(tmp_path: Path) -> None:
    """A file that goes wrong, or goes, changes nothing and is complained of; once it is in order it counts."""
    file = tmp_path / "p.yaml"
    file.write_text(GOOD)
    policies = Policies(Book(), file)
    assert policies.reload()
    assert not policies.reload()
    held = policies.rules
    file.write_text(GOOD.replace("300", "soon"))
    assert not policies.reload()
    assert policies.rules == held
    assert "line 6" in policies.problem
    assert "held before still do" in policies.problem
    file.unlink()
    assert not policies.reload()
    assert policies.rules == held
    file.write_text(GOOD.replace("300", "400"))
    assert policies.reload()
    assert policies.rules[0].settings == {"idle_after_seconds": 400}
    assert policies.problem is None


def test_an_override_goes_before_the_rules_and_says_who_set_it() -> None:
    """The newest override counts first; what the service explains and what it sends are the same rule."""
    policies = Policies(book_from(GOOD, "p.yaml"))
    rule = {"match": {"users": ["ada"]}, "set": {"mode": "off"}}
    override = Override(number=7, rule=rule, note="", actor="root", made_at=NOON)
    broken = Override(number=8, rule={"set": {"gone": 1}}, note="", actor="root", made_at=NOON)
    assert policies.override([broken, override])
    assert not policies.override([broken, override])
    ada, bob = Subject(user="ada"), Subject(user="bob", groups=frozenset({"course"}))
    ((found, why),) = policies.explain(ada, NOON)
    assert (found.where, why) == ("override 7 by root", None)
    told = policies.for_server(ada)["rules"]
    assert [one["where"] for one in told] == ["override 7 by root"]
    assert [why for _, why in policies.explain(bob, NOON)] == ["It is for users ada; here: 'bob'.", None]
    assert policies.priority(Subject(user="x"), NOON) == -1


def test_a_servers_kernels_are_ranked_by_the_rules_of_their_specs() -> None:
    """The server has the priority of its own rule, a kernel that of the rule for its spec where that is another."""
    rules = [
        {"match": {"kernelspecs": ["torch*"]}, "set": {}, "priority": -3},
        {"match": {"users": ["ada"], "profiles": ["small"]}, "set": {}, "priority": 2},
    ]
    policies = Policies(book_of(rules))
    said = status(kernel("a", 1, kernel_name="torch-2"), kernel("b", 1, kernel_name="python3"))
    ranked = policies.ranked(replace(server("ada", said), profile="small"), NOON)
    assert (ranked.priority, ranked.kernelspec_priorities) == (2, {"torch-2": -3})
    assert [ranked.priority_of(one) for one in ranked.kernels] == [-3, 2]
    assert policies.ranked(server("ada", said), NOON).priority == 0
