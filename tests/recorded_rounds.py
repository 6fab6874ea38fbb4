"""Rounds of the loop in a small file: of each, only what the one before did not have."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.core.model import Decision, Holding, Snapshot
from jupyter_gpu_reclaim.core.wire import from_json


@dataclass(frozen=True)
class Round:
    """What `decide()` was given, as far as the status shows it, and what it decided, by kernel."""

    snapshot: Snapshot
    short_since: dict[str, datetime]
    residence: dict[str, timedelta]
    decisions: dict[str, Decision]


def write(rounds: list[dict[str, Any]], path: Path) -> None:
    """Write what the extension `bench.rounds` has kept; who the kernels belong to is left out."""
    lines, before, seen_at = [], {}, None
    for each in rounds:
        if each["snapshot"]["taken_at"] == seen_at:
            continue
        seen_at = each["snapshot"]["taken_at"]
        flat = _flat(each)
        lines.append({key: value for key, value in flat.items() if key not in before or before[key] != value})
        before = flat
    text = "\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
    path.write_bytes(lzma.compress(text.encode(), preset=9))


def read(path: Path) -> Iterator[Round]:
    """The rounds that `write` wrote, in their order."""
    snapshot: dict[str, Any] = {}
    holdings: dict[str, dict[str, Any]] = {}
    seen: dict[str, Holding] = {}
    decisions: dict[str, Decision] = {}
    history: dict[str, Any] = {}
    for line in lzma.decompress(path.read_bytes()).decode().splitlines():
        changed = set()
        for key, value in json.loads(line).items():
            kind, *names = key.split(" ")
            if kind == "holding":
                holdings.setdefault(names[0], {})[names[1]] = value
                changed.add(names[0])
            elif kind == "snapshot":
                snapshot[names[0]] = value
            elif kind == "decision":
                decisions[names[0]] = from_json(Decision, value)
            else:
                history[kind] = value
        seen.update({kernel_id: from_json(Holding, holdings[kernel_id]) for kernel_id in changed})
        yield Round(
            replace(from_json(Snapshot, snapshot | {"holdings": []}), holdings=tuple(seen.values())),
            {gpu: datetime.fromisoformat(at) for gpu, at in history["short_since"].items()},
            {gpu: timedelta(seconds=seconds) for gpu, seconds in history["residence"].items()},
            dict(decisions),
        )


def _flat(each: dict[str, Any]) -> dict[str, Any]:
    snapshot = dict(each["snapshot"])
    flat = {
        f"holding {holding['kernel_id']} {name}": value
        for holding in snapshot.pop("holdings")
        for name, value in holding.items()
        if name != "owner"
    }
    flat |= {f"snapshot {name}": value for name, value in snapshot.items()}
    flat |= {f"decision {kernel_id}": decision for kernel_id, decision in each["decisions"].items()}
    return flat | {"short_since": each["short_since"], "residence": each["residence"]}
