"""The operator's rules: read and checked, kept when a change of them is wrong, and the overrides before them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from jupyter_gpu_reclaim.core.fleet import FleetServer
from jupyter_gpu_reclaim.core.policy_rules import Rule, Subject, first_fit, narrowed, unfit
from jupyter_gpu_reclaim.core.policy_text import BadRule, rule_from, rule_to
from jupyter_gpu_reclaim.hub.fleet import subject_of
from jupyter_gpu_reclaim.hub.records import Override

logger = logging.getLogger(__name__)


class BadPolicies(ValueError):
    """Rules that cannot be taken; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Book:
    """Rules in their order, and the zone in which their hours and days are."""

    rules: tuple[Rule, ...] = ()
    zone: tzinfo = UTC


class Policies:
    """The rules that hold now: the overrides, the newest first, then those of the configuration."""

    def __init__(self, book: Book, file: Path | None = None) -> None:
        self._book = book
        self._file = file
        self._seen: tuple[int, int] | None = None  # of the file, when it was last read
        self._overrides: tuple[Rule, ...] = ()
        self.problem: str | None = None
        """Why the last change of the file was not taken; what held before still does."""

    @property
    def zone(self) -> tzinfo:
        """Where hours and days are counted."""
        return self._book.zone

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All in the order in which they are tried."""
        return self._overrides + self._book.rules

    @property
    def book(self) -> Book:
        """The rules of the configuration, without the overrides."""
        return self._book

    @property
    def in_force(self) -> Book:
        """The rules that hold now, the overrides among them."""
        return self.with_rules(self._book)

    def with_rules(self, book: Book) -> Book:
        """What would hold if these were the rules of the configuration: the standing overrides go before them."""
        return Book(self._overrides + book.rules, book.zone)

    def override(self, standing: Iterable[Override]) -> bool:
        """Have these overrides before the rules; whether anything changed. One that is no rule any more is left out."""
        before, found = self._overrides, []
        for one in standing:
            try:
                found.append(rule_from(one.rule, f"override {one.number} by {one.actor}"))
            except BadRule as error:
                logger.warning("Override %d is left out: %s", one.number, error)
        self._overrides = tuple(found)
        return self._overrides != before

    def reload(self) -> bool:
        """Read the file if it has changed; whether other rules hold now. Blocks; `problem` says what is wrong."""
        if self._file is None:
            return False
        try:
            found = self._file.stat()
            if (found.st_mtime_ns, found.st_size) == self._seen:
                return False
            book = book_from(self._file.read_text(), self._file.name)
            self._seen = found.st_mtime_ns, found.st_size
        except (OSError, UnicodeDecodeError, BadPolicies) as error:
            self._complain(f"{error} The policies that held before still do; correct the file.")
            return False
        if self.problem is not None:
            logger.info("The policies in %s are in order again.", self._file)
        self.problem, before, self._book = None, self._book, book
        return book != before

    def for_server(self, subject: Subject) -> dict[str, Any]:
        """What its server has to know to tell at any time which rule holds for it, as JSON."""
        rules = narrowed(self.rules, subject)
        return {
            "zone": str(self.zone),
            "rules": [{**rule_to(rule), "where": rule.where} for rule in rules],
        }

    def priority(self, subject: Subject, at: datetime) -> int:
        """Whose kernels give way first to other servers: the lower."""
        rule = first_fit(self.rules, subject, at, self.zone)
        return 0 if rule is None else rule.priority

    def ranked(self, server: FleetServer, at: datetime) -> FleetServer:
        """The server with its priority, and those of its kernels that have another."""
        subject = subject_of(server)
        whole = self.priority(subject, at)
        of_kernels = {
            name: priority
            for name in {kernel.kernel_name for kernel in server.kernels}
            if (priority := self.priority(replace(subject, kernelspec=name), at)) != whole
        }
        return replace(server, priority=whole, kernelspec_priorities=of_kernels)

    def explain(self, subject: Subject, at: datetime) -> list[tuple[Rule, str | None]]:
        """Each rule up to the one that holds for that server at that instant, and why it does not; None: it does."""
        told: list[tuple[Rule, str | None]] = []
        for rule in self.rules:
            told.append((rule, unfit(rule, subject, at, self.zone)))
            if told[-1][1] is None:
                break
        return told

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem


def book_of(rules: Sequence[Any], zone: str = "UTC") -> Book:
    """The rules of a Python configuration. Raises `BadPolicies`."""
    found = []
    for number, data in enumerate(rules, 1):
        try:
            found.append(rule_from(data, f"rule {number}"))
        except BadRule as error:
            raise BadPolicies(f"Rule {number} of the policies: {error}.") from error
    return Book(tuple(found), _zone(zone, "The policies"))


def book_from(text: str, name: str) -> Book:
    """The rules in a YAML text `{timezone: Europe/Berlin, rules: […]}`. Raises `BadPolicies` with the line."""
    try:
        document = yaml.compose(text, yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise BadPolicies(f"{name}{line}: this is no YAML: {getattr(error, 'problem', error)}.") from error
    if not isinstance(data, dict) or not set(data) <= {"timezone", "rules"}:
        raise BadPolicies(f"{name} line 1: a map of `timezone` and `rules` is expected, and nothing else.")
    rules = data.get("rules") or []
    if not isinstance(rules, list):
        raise BadPolicies(f"{name} line {_line(document, ('rules',))}: `rules` must be a list.")
    found = []
    for number, body in enumerate(rules):
        try:
            where = f"{name} line {_line(document, ('rules', number))}"
            _no_doubles(document, ("rules", number))
            found.append(rule_from(body, where))
        except BadRule as error:
            line = _line(document, ("rules", number, *error.path))
            raise BadPolicies(f"{name} line {line}: {error}.") from error
    line = _line(document, ("timezone",))
    return Book(tuple(found), _zone(data.get("timezone", "UTC"), f"{name} line {line}"))


def _zone(name: Any, where: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise BadPolicies(f'{where}: there is no time zone {name!r}; write "Europe/Berlin".') from error


def _node(document: yaml.Node, path: Sequence[str | int]) -> tuple[yaml.Node, yaml.Node]:
    """The node as far as the path leads to one, and the key that stands before it."""
    key = node = document
    for step in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            key = node = node.value[step]
        elif isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == step]
            if not found:
                break
            key, node = found[-1]
    return node, key


def _line(document: yaml.Node, path: Sequence[str | int]) -> int:
    return _node(document, path)[1].start_mark.line + 1


def _no_doubles(document: yaml.Node, path: tuple[str | int, ...]) -> None:
    """YAML lets the last of two equal keys win without a word."""
    for part in ((), ("match",), ("set",)):
        node, _ = _node(document, (*path, *part))
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for key in keys:
            if keys.count(key) > 1:
                raise BadRule((*part, key), "it is there twice")
