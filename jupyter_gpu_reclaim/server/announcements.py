"""What people are told of a status beside its transitions: warnings given, and waits that begin, change or end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from jupyter_gpu_reclaim.core.kernelspecs import policy_of
from jupyter_gpu_reclaim.core.model import Holding, Snapshot
from jupyter_gpu_reclaim.core.waits import WaitDetail
from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.reconciler import Status

WARNING = "https://events.jupyter.org/jupyter_gpu_reclaim/warning/v1"
WAITING = "https://events.jupyter.org/jupyter_gpu_reclaim/waiting/v1"
SELDOM = timedelta(seconds=1)
"""Figures of a wait that creep are told no more often than this."""


class Announcements:
    """Remembers what was told, so that each thing is told once."""

    def __init__(self) -> None:
        self._warned: dict[str, datetime] = {}
        self._waits: dict[str, tuple[datetime, WaitDetail]] = {}

    def of(self, status: Status) -> list[tuple[str, dict[str, Any]]]:
        """What is new in this status, as events: schema and data."""
        snapshot = status.snapshot
        if snapshot is None:
            return []
        holdings = {holding.kernel_id: holding for holding in snapshot.holdings}
        return [*self._warnings(status, snapshot), *self._changes(status, snapshot, holdings)]

    def _warnings(self, status: Status, snapshot: Snapshot) -> Iterator[tuple[str, dict[str, Any]]]:
        before, self._warned = self._warned, {}
        for holding in snapshot.holdings:
            if holding.warned_at is None:
                continue
            self._warned[holding.kernel_id] = holding.warned_at
            due_at = status.due_at[holding.kernel_id]
            if before.get(holding.kernel_id) != holding.warned_at and due_at is not None:
                yield (
                    WARNING,
                    {
                        **_subject(holding, holding.warned_at, snapshot),
                        "reclaim_at": to_json(due_at),
                        "footprint": to_json(holding.footprint),
                        "longest_pin_seconds": to_json(policy_of(holding, status.policy).max_pin),
                    },
                )

    def _changes(
        self, status: Status, snapshot: Snapshot, holdings: dict[str, Holding]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        now = snapshot.taken_at
        for name in self._waits.keys() - status.waits.keys():
            del self._waits[name]
            if name in holdings:
                over = {"waiting": False, "wait": None}
                yield WAITING, {**_subject(holdings[name], now, snapshot), **over}
        for name, wait in status.waits.items():
            told = self._waits.get(name)
            if (
                told is None
                or _place(told[1]) != _place(wait)
                or (told[1] != wait and now - told[0] >= SELDOM)
            ):
                self._waits[name] = now, wait
                begun = {"waiting": True, "wait": to_json(wait)}
                yield WAITING, {**_subject(holdings[name], now, snapshot), **begun}


def _place(wait: WaitDetail) -> WaitDetail:
    """The wait without the figures that creep."""
    holders = tuple(replace(holder, footprint={}) for holder in wait.holders)
    return replace(wait, missing={}, estimate=None, holders=holders)


def _subject(holding: Holding, at: datetime, snapshot: Snapshot) -> dict[str, Any]:
    simulated = {gpu.uuid for gpu in snapshot.gpus or () if gpu.simulated}
    return {
        "at": to_json(at),
        "kernel_id": holding.kernel_id,
        "label": holding.label,
        "owner": holding.owner,
        "simulated": not simulated.isdisjoint(holding.footprint),
    }
