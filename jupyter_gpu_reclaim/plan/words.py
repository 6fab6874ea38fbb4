"""What is typed after `jupyter gpu-reclaim plan`, as values."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_gpu_reclaim.core.model import OF_RULES, Policy

if TYPE_CHECKING:
    from jupyter_gpu_reclaim.plan.sizing import Ask

_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "GB": 10**9}
_SPANS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_POLICY = {
    field.name: getattr(Policy(), field.name) for field in fields(Policy) if field.name not in OF_RULES
}


class Misread(Exception):
    """A word that means nothing; the message says what would."""


def size(words: str) -> int:
    """`80GiB`, in bytes. Raises `Misread`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", words)
    if not found or found[2] not in _SIZES:
        raise Misread(f"{words} is no size: write 80GiB (or MiB, TiB, GB)")
    return int(float(found[1]) * _SIZES[found[2]])


def span(words: str) -> timedelta:
    """`5m`. Raises `Misread`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)", words)
    if not found:
        raise Misread(f"{words} is no time: write 5m (s, m, h, d)")
    return timedelta(seconds=float(found[1]) * _SPANS[found[2]])


def with_setting(ask: Ask, name: str, words: str) -> Ask:
    """The ask with one setting of the policy changed; `idle_after` and `idle_after_seconds` mean the same."""
    short = name.removesuffix("_seconds")
    if short == "tick":
        seconds = span(words).total_seconds()
        if not seconds:
            raise Misread("tick_seconds must be more than 0")
        return replace(ask, tick_seconds=seconds)
    before = _POLICY.get(short)
    if before is None or not isinstance(before, timedelta | int | float | str):
        known = ", ".join([*(n for n, v in _POLICY.items() if not hasattr(v, "keys")), "tick_seconds"])
        raise Misread(f"{name} is no setting that a replay knows; there are {known}")
    return replace(ask, policy=replace(ask.policy, **{short: _value(short, before, words)}))


def _value(name: str, before: Any, words: str) -> Any:
    try:
        if isinstance(before, timedelta):
            return span(words)
        if name.endswith("_bytes"):
            return size(words)
        return type(before)(words)
    except ValueError:
        raise Misread(f"{name}={words}: {words} is no {type(before).__name__}") from None


def settings(assignments: Sequence[str]) -> list[tuple[str, str]]:
    """`a=b` each, as pairs. Raises `Misread`."""
    if odd := [words for words in assignments if "=" not in words]:
        raise Misread(f"{odd[0]}: write setting=value")
    return [(name, value) for name, _, value in (words.partition("=") for words in assignments)]


def add_to(command: ArgumentParser) -> None:
    """The sub-command's words."""
    command.add_argument(
        "traces",
        nargs="*",
        type=Path,
        metavar="TRACE",
        help="recorded cells, CSV or Parquet; see docs/plan.md",
    )
    command.add_argument(
        "--format-of-traces", choices=("cells", "log", "philly"), default="cells", help="default: %(default)s"
    )
    command.add_argument(
        "--users", type=int, default=100, help="without a trace: of a made-up team (%(default)s)"
    )
    command.add_argument("--days", type=int, default=7, help="of theirs (%(default)s)")
    command.add_argument("--seeds", type=int, default=3, metavar="N", help="so many such teams (%(default)s)")
    command.add_argument("--gpus", type=int, help="replay on so many (default: the fewest for the target)")
    command.add_argument("--gpu-memory", default="80GiB", help="default: %(default)s")
    command.add_argument("--host-memory", default="256GiB", help="of the host for each GPU (%(default)s)")
    command.add_argument("--context-memory", default="500MiB", help="that a kernel keeps (%(default)s)")
    command.add_argument("--offload-speed", default="4GB", help="bytes a second to the host (%(default)s)")
    command.add_argument("--onload-speed", default="7GB", help="bytes a second back (%(default)s)")
    command.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="idle_after=5m …"
    )
    command.add_argument("--sweep", metavar="SETTING=VALUE,…", help="one after the other, compared")
    command.add_argument("--wait", default="10s", help="what is short enough (%(default)s)")
    command.add_argument("--quantile", type=float, default=0.95, help="of cells that wait less (%(default)s)")
    command.add_argument("--cull-after", default="1h", help="of the baseline that culls (%(default)s)")
    command.add_argument(
        "--sensitivity", action="store_true", help="also with each assumption lower and higher"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    command.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a chart to FILE")
