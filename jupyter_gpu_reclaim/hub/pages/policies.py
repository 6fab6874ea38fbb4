"""The rules that hold, for whom each counts and why, and overrides of them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta

import tornado.web
import yaml

from jupyter_gpu_reclaim.core.policy_rules import Subject
from jupyter_gpu_reclaim.core.policy_text import rule_from, rule_to
from jupyter_gpu_reclaim.hub.dry_run_process import MOST_DAYS
from jupyter_gpu_reclaim.hub.fleet import subject_of
from jupyter_gpu_reclaim.hub.pages.page import HubPage
from jupyter_gpu_reclaim.hub.pages.past import instant_in
from jupyter_gpu_reclaim.hub.policies import Book

OVERRIDES = 50
ASKED = ("user", "server", "groups", "kernelspec", "at")
LONGEST_NOTE, LONGEST_RULE, LONGEST_HOURS = 500, 20_000, 366 * 24


class PoliciesHandler(HubPage):
    """Rules in their order, and an answer to "which one is for this user, and why"."""

    async def get(self) -> None:
        """GET policies?user=&server=&groups=&kernelspec=&at=&before=."""
        self.need_read()
        asked = {name: self.get_query_argument(name, "")[:500] for name in ASKED}
        text = self.get_query_argument("before", None)
        before = None if text is None else self.whole("before", 1, 2**62)
        overrides, following = await self.service.store.overrides(before=before, limit=OVERRIDES)
        policies, at = self.service.policies, instant_in(asked["at"], self.now) or self.now
        told = policies.explain(self._subject(asked), at) if asked["user"] else None
        self.show(
            "policies.html",
            policies=policies,
            rules=[(rule, as_yaml(rule_to(rule))) for rule in policies.rules],
            asked=asked,
            at=at,
            told=told,
            overrides=[(one, as_yaml(dict(one.rule))) for one in overrides],
            next=following,
            days=MOST_DAYS,
            as_file=as_yaml(file_of(policies.book)),
        )

    def _subject(self, asked: dict[str, str]) -> Subject:
        """Who is meant: as they were heard of lately where they were, with the groups that are named."""
        seen = self.service.fleet.get((asked["user"], asked["server"]))
        known = Subject(user=asked["user"], server=asked["server"]) if seen is None else subject_of(seen)
        groups = frozenset(filter(None, (name.strip() for name in asked["groups"].split(","))))
        return replace(known, groups=groups or known.groups, kernelspec=asked["kernelspec"] or None)


class OverridesHandler(HubPage):
    """A rule before all others."""

    async def post(self) -> None:
        """POST overrides: rule as YAML, note, hours ("": until it is ended)."""
        self.need_write()
        text, note = self.get_body_argument("rule"), self.get_body_argument("note", "").strip()
        if not 0 < len(note) <= LONGEST_NOTE:
            raise ValueError(f"An override needs a note of at most {LONGEST_NOTE} letters on why it is.")
        rule = rule_to(rule_from(rule_in(text)))
        until = end_after(self.get_body_argument("hours", ""), self.now)
        await self.service.set_override(rule, note, self.actor.name, until)
        self.redirect(self.address("policies"), status=303)


class OverrideEndHandler(HubPage):
    """The end of an override."""

    async def post(self, number: str) -> None:
        """POST overrides/{number}/end."""
        self.need_write()
        if not await self.service.end_override(int(number), self.actor.name):
            raise tornado.web.HTTPError(404, "There is no such override, or it has ended already.")
        self.redirect(self.address("policies"), status=303)


def rule_in(text: str) -> object:
    """The YAML of one rule. Raises ValueError with the line."""
    if len(text) > LONGEST_RULE:
        raise ValueError(f"A rule has at most {LONGEST_RULE} letters.")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"The rule is no YAML{line}: {getattr(error, 'problem', error)}.") from error


def end_after(hours: str, now: datetime) -> datetime | None:
    """The instant so many hours from now; None for "". Raises ValueError."""
    if not hours.strip():
        return None
    try:
        count = float(hours)
    except ValueError:
        count = math.nan
    if not 0 < count <= LONGEST_HOURS:
        raise ValueError(
            f"An override holds for more than 0 and at most {LONGEST_HOURS} hours, or until it is ended."
        )
    return now + timedelta(hours=count)


def file_of(book: Book) -> dict:
    """The rules as they stand in a file."""
    return {"timezone": str(book.zone), "rules": [rule_to(rule) for rule in book.rules]}


def as_yaml(rule: dict) -> str:
    """A rule as operators write it."""
    return yaml.safe_dump(rule, sort_keys=False, allow_unicode=True, default_flow_style=False).rstrip()


ROUTES = [
    (r"policies", PoliciesHandler),
    (r"overrides", OverridesHandler),
    (r"overrides/([0-9]{1,18})/end", OverrideEndHandler),
]
