"""The operator's rules for this server: as the service sent them last, kept on disk for when it is away."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from jupyter_gpu_reclaim.core.model import Policy
from jupyter_gpu_reclaim.core.policy_rules import Rule, Ruling, Subject, in_force
from jupyter_gpu_reclaim.core.policy_text import rule_from

logger = logging.getLogger(__name__)

_ANYBODY = Subject(user="")  # the service sends only rules for this server


class KeptPolicy:
    """`own` is the server's policy as configured, `chosen` the settings in it that its user has made."""

    def __init__(self, own: Policy, chosen: Iterable[str], file: Path) -> None:
        self._own = own
        self._chosen = frozenset(chosen)
        self._file = file
        self._rules: tuple[Rule, ...] = ()
        self._zone: tzinfo = UTC
        self.now = Ruling(policy=own, rule=None, settings={})
        """What holds, and why, as of the last `policy()`; without a rule the server's own policy does."""

    def load(self) -> None:
        """Take what was kept. Blocks. Nothing, or what cannot be read, leaves the server's own policy."""
        try:
            self._take(json.loads(self._file.read_text()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("The Hub's policy kept in %s cannot be read: %s", self._file, error)

    def take(self, sent: Any) -> None:
        """What the service says. What this version does not know raises as bad data does."""
        self._take(sent)

    def keep(self, sent: Any) -> None:
        """Write it to disk, in one step. Blocks. Raises OSError."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(f".{os.getpid()}.new")
        unfinished.write_text(json.dumps(sent))
        unfinished.rename(self._file)

    def policy(self, at: datetime) -> Policy:
        """The policy at that instant: the server's own, within the bounds of the rule that holds then."""
        self.now = in_force(self._own, self._chosen, self._rules, _ANYBODY, at, self._zone)
        return self.now.policy

    def _take(self, sent: Any) -> None:
        rules = tuple(rule_from(_without_where(rule), rule.get("where", "")) for rule in sent["rules"])
        self._zone = ZoneInfo(sent["zone"])
        self._rules = rules


def _without_where(rule: Any) -> dict[str, Any]:
    return {name: value for name, value in rule.items() if name != "where"}
