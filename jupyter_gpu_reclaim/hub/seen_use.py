"""When kernels were in use, by the samples of what they held: the cells that the log does not have.

Pure. A minute in which all samples show a kernel idle on the GPU is a rest; every other minute counts as use. So a rest
comes out too short, by less than two minutes; but a cell that no sample saw, ten seconds apart, does not break one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from jupyter_gpu_reclaim.core.figures import Share
from jupyter_gpu_reclaim.core.usage import KernelAmounts

MINUTE = timedelta(minutes=1)
OBSERVED_MS = 59_000  # of a minute; where less was observed it is not known that a kernel was idle
UNIT = 1_024_000  # bytes × milliseconds, in which `KernelAmounts` counts bytes
Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenUse:
    """One kernel: from `first` to `last` it held GPU memory, unless it was reclaimed; idle in its `rests`."""

    owner: str
    label: str
    footprint: Mapping[str, int]  # the most that it held on each GPU
    first: datetime
    last: datetime
    rests: tuple[Span, ...]
    gone_at: (
        datetime | None
    )  # no sample shows it from then on, though samples were taken; None: it was there to the end

    @property
    def used_until(self) -> datetime:
        """The end of its last use, as far as it was seen."""
        trailing = self.rests and self.rests[-1][1] >= self.last
        return self.rests[-1][0] if trailing else self.last

    def cells(self, began: datetime, used_at: datetime) -> Iterator[Span]:
        """A stretch of use, which begins and ends with one, without the rests that were seen in it."""
        at: datetime | None = None  # where the next cell begins, once a rest was cut off
        for begin, end in self.rests:
            if end <= began or begin >= used_at:
                continue
            yield (began if at is None else at), max(begin, began)
            at = min(end, used_at)
        yield (began if at is None else at), used_at


class Stretch(NamedTuple):
    """A kernel in use, as far as the log knows. `open`: no reclaim ended it."""

    began: datetime
    used_at: datetime
    held: int  # bytes
    open: bool


def refined(stretches: Sequence[Stretch], resident_before: bool, seen: SeenUse) -> list[Stretch]:
    """The same use, without the rests that were seen in it. All that was seen, where the log has nothing.

    `resident_before` says that the kernel was on the GPU before the log's first row of it.
    """
    known = list(stretches) or [Stretch(seen.first, seen.last, sum(seen.footprint.values()), True)]
    if resident_before:
        known[0] = known[0]._replace(began=min(known[0].began, seen.first))
    pieces = []
    for began, used_at, held, is_open in known:
        end = max(began, min(used_at, seen.used_until)) if is_open else used_at
        pieces += [Stretch(begin, until, held, is_open) for begin, until in seen.cells(began, end)]
    return pieces


def seen_use(minutes: Iterable[tuple[int, Share]]) -> dict[str, SeenUse]:
    """By kernel id, of the minutes, each as seconds since 1970 and what a kernel held in it; in any order."""
    by_kernel: dict[str, dict[int, list[Share]]] = defaultdict(lambda: defaultdict(list))
    newest = 0
    for at, share in minutes:
        by_kernel[share.kernel_id][at].append(share)
        newest = max(newest, at)
    found = {}
    for kernel_id, of_it in by_kernel.items():
        held = {at: shares for at, shares in sorted(of_it.items()) if any(s.amounts.resident for s in shares)}
        if held:
            last = max(of_it)
            found[kernel_id] = _folded(held, _at(last) + MINUTE if last + 120 < newest else None)
    return found


def _folded(held: Mapping[int, list[Share]], gone_at: datetime | None) -> SeenUse:
    rests: list[Span] = []
    footprint: dict[str, int] = {}
    for at, shares in held.items():
        for share in shares:
            footprint[share.gpu] = max(footprint.get(share.gpu, 0), _bytes(share.amounts))
        if all(_idle(share.amounts) for share in shares):
            begin = rests.pop()[0] if rests and rests[-1][1] == _at(at) else _at(at)
            rests.append((begin, _at(at) + MINUTE))
    newest = list(held.values())[-1][0]
    return SeenUse(
        owner=newest.owner,
        label=newest.label,
        footprint={uuid: count for uuid, count in footprint.items() if count},
        first=_at(min(held)),
        last=_at(max(held)) + MINUTE,
        rests=tuple(rests),
        gone_at=gone_at,
    )


def _idle(amounts: KernelAmounts) -> bool:
    observed = amounts.ms >= OBSERVED_MS and not amounts.waited_ms
    return observed and amounts.resident == amounts.idle and not amounts.reclaimed


def _bytes(amounts: KernelAmounts) -> int:
    return amounts.resident * UNIT // amounts.ms if amounts.ms else 0


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
