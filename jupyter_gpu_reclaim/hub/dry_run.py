"""What other rules would have made of a time in the log: its kernels replayed under the rules in force and under those.

Pure. Kernels of one GPU are replayed together where they have the same settings at every time, under both rules: a
replay's `decide()` takes one policy. What differs in settings is replayed as if each group had the GPU to itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

from jupyter_gpu_reclaim.core.kernelspecs import of_kernelspec
from jupyter_gpu_reclaim.core.model import Event, Policy, Reason, Transition
from jupyter_gpu_reclaim.core.policy_rules import Subject, in_force, narrowed
from jupyter_gpu_reclaim.hub.dry_run_words import MAY_BE_MORE, MORE_BEFORE, NOTHING
from jupyter_gpu_reclaim.hub.policies import Book
from jupyter_gpu_reclaim.hub.seen_use import MINUTE, SeenUse, Stretch, refined
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.gpu_replay import GpuReplay
from jupyter_gpu_reclaim.plan.log_export import stretches
from jupyter_gpu_reclaim.plan.outside import Outside
from jupyter_gpu_reclaim.plan.tally import GIB_HOUR, Tally
from jupyter_gpu_reclaim.plan.trace import SECOND, Row, TraceKernel, assembled

EVENTS = (
    Event.RECLAIM_STARTED,
    Event.RECLAIM_DONE,
    Event.RECLAIM_REFUSED,
    Event.RESTORE_STARTED,
    Event.RESTORE_DONE,
    Event.KERNEL_GONE,
)
"""What of the log is read."""
TICK_SECONDS = 5.0  # the default of `tick_seconds`
HOST_BYTES = 1 << 50  # more than there is anywhere: the log does not say how much there was
UNKNOWN_GPU = Machine().gpu_bytes  # where no server has said lately how large it is
Schedule = tuple[tuple[int, Policy], ...]
"""A policy from each instant on, in microseconds from the beginning; the first is at 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What happened from `since` to `until`, oldest first; whose each kernel is; and how large GPUs are, if known."""

    rows: tuple[Transition, ...]
    since: datetime
    until: datetime
    subjects: Mapping[str, Subject]  # by kernel id
    gpu_bytes: Mapping[str, int]
    seen: Mapping[str, SeenUse] = field(default_factory=dict)  # by kernel id, as far as samples go

    @property
    def seen_since(self) -> datetime | None:
        """Where the samples begin in this time; None: there are none."""
        first = min((use.first for use in self.seen.values()), default=None)
        return None if first is None else max(first, self.since)

    @property
    def span(self) -> int:
        """In microseconds."""
        return self.offset(self.until)

    def offset(self, at: datetime) -> int:
        """Microseconds from the beginning, within the time."""
        return (min(max(at, self.since), self.until) - self.since) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What one set of rules brings."""

    reclaimed_gib_hours: float = 0.0
    waits: int = 0
    waited_seconds: float = 0.0
    restores: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both, over the same kernels, and what the log itself has of these kernels, to hold the first against."""

    since: datetime
    until: datetime
    first_row_at: datetime | None  # where the log begins in this time
    seen_since: datetime | None  # from when on use is known by the minute
    kernels: int
    left_out: int  # kernels on several GPUs
    split_gpus: int  # on which users with different settings are replayed apart
    unknown_gpus: int  # whose size is not known
    logged_gib_hours: float
    logged_restores: int
    sooner: bool  # whether somewhere more is reclaimed than under the rules in force
    in_force: Brought
    tried: Brought

    @property
    def sentence(self) -> str:
        """The difference in words."""
        if not self.kernels:
            return NOTHING
        gib_hours = self.tried.reclaimed_gib_hours - self.in_force.reclaimed_gib_hours
        more = f"{abs(gib_hours):,.1f} GiB-h {'less' if round(gib_hours, 1) < 0 else 'more'}"
        waits = self.tried.waits - self.in_force.waits
        count = f"{abs(waits):,} {'fewer' if waits < 0 else 'more'} wait{'' if abs(waits) == 1 else 's'}"
        told = f"The rules tried would have reclaimed {more} and caused {count}."
        if not self.sooner or (self.seen_since is not None and self.seen_since <= self.since + MINUTE):
            return told
        return f"{told} {MAY_BE_MORE if self.seen_since is None else MORE_BEFORE.format(self.seen_since)}"


def compare(past: Past, in_force: Book, tried: Book) -> Comparison:
    """Replay that time twice."""
    by_kernel: dict[str, list[Transition]] = defaultdict(list)
    for row in past.rows:
        by_kernel[row.kernel_id].append(row)
    for kernel_id in past.seen:
        by_kernel[kernel_id] += ()  # also those that the log knows nothing of
    gpus = {kernel_id: _gpus(rows, past.seen.get(kernel_id)) for kernel_id, rows in by_kernel.items()}
    of_one = {kernel_id: rows for kernel_id, rows in by_kernel.items() if len(gpus[kernel_id]) == 1}
    schedules = _Schedules(past, in_force), _Schedules(past, tried)
    groups: dict[tuple[str, int, int], list[TraceKernel]] = defaultdict(list)
    for kernel_id, rows in sorted(of_one.items()):
        seen = past.seen.get(kernel_id)
        subject = past.subjects.get(kernel_id) or Subject(user=rows[0].owner if rows else seen.owner)
        before, after = (each.number(subject) for each in schedules)
        kernel = _trace(past, kernel_id, rows, seen, schedules[0].known[before])
        if kernel is not None:
            groups[min(gpus[kernel_id]), before, after].append(kernel)
    ends = {
        kernel_id: past.offset(ended)
        for kernel_id, rows in of_one.items()
        if (ended := _ended(past, rows, past.seen.get(kernel_id))) is not None
    }
    totals, sooner = (Tally(), Tally()), False
    for (gpu, *numbers), kernels in groups.items():
        pair = [
            _replayed(past, gpu, kernels, each.known[number], ends)
            for each, number in zip(schedules, numbers, strict=True)
        ]
        sooner = sooner or pair[1].reclaimed_gib_hours > pair[0].reclaimed_gib_hours
        for total, one in zip(totals, pair, strict=True):
            total.add(one)
    places = Counter(gpu for gpu, *_ in groups)
    return Comparison(
        since=past.since,
        until=past.until,
        first_row_at=past.rows[0].at if past.rows else None,
        seen_since=past.seen_since,
        kernels=sum(map(len, groups.values())),
        left_out=sum(len(found) > 1 for found in gpus.values()),
        split_gpus=sum(count > 1 for count in places.values()),
        unknown_gpus=len(places.keys() - past.gpu_bytes.keys()),
        logged_gib_hours=sum(_logged(past, rows) for rows in of_one.values()) / GIB_HOUR,
        logged_restores=sum(row.event is Event.RESTORE_DONE for rows in of_one.values() for row in rows),
        sooner=sooner,
        in_force=_brought(totals[0]),
        tried=_brought(totals[1]),
    )


def _replayed(
    past: Past, gpu: str, kernels: list[TraceKernel], schedule: Schedule, ends: Mapping[str, int]
) -> Tally:
    size = past.gpu_bytes.get(gpu, UNKNOWN_GPU)
    machine = Machine(gpu_bytes=size, host_bytes=HOST_BYTES, context_bytes=0)
    (_, first), *later = schedule
    outside = Outside(later=later, ends=ends)
    return GpuReplay(gpu, kernels, past.span, first, machine, TICK_SECONDS, outside=outside).run()


class _Schedules:
    """Each different schedule of settings once, by number."""

    def __init__(self, past: Past, book: Book) -> None:
        self._past, self._book = past, book
        self._of: dict[Subject, int] = {}
        self.known: list[Schedule] = []

    def number(self, subject: Subject) -> int:
        """Of the one that is this subject's."""
        if subject not in self._of:
            schedule = schedule_of(self._book, subject, self._past)
            if schedule not in self.known:
                self.known.append(schedule)
            self._of[subject] = self.known.index(schedule)
        return self._of[subject]


def schedule_of(book: Book, subject: Subject, past: Past) -> Schedule:
    """The settings that the rules make for this subject, and when they change."""
    rules = narrowed(book.rules, subject)
    timed = any(rule.match.days or rule.match.hours for rule in rules)
    found: list[tuple[int, Policy]] = []
    for at in sorted({past.since, *(_changes(book, past) if timed else ())}):
        made = in_force(Policy(), (), rules, subject, at, book.zone).policy
        own = made if subject.kernelspec is None else of_kernelspec(subject.kernelspec, made)
        policy = replace(own, rule_priority=0, by_kernelspec=())  # not among those who are replayed together
        if policy.mode == "dry_run":
            policy = replace(policy, mode="off")  # a dry run moves nothing
        if not found or found[-1][1] != policy:
            found.append((past.offset(at), policy))
    return tuple(found)


def _changes(book: Book, past: Past) -> Iterator[datetime]:
    """Instants at which a rule may begin or cease to hold."""
    minutes = {0} | {
        minute % 1440
        for rule in book.rules
        if rule.match.hours is not None
        for minute in (rule.match.hours.begin, rule.match.hours.end)
    }
    day, last = past.since.astimezone(book.zone).date(), past.until.astimezone(book.zone).date()
    while day <= last:
        for minute in minutes:
            local = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=book.zone)
            if past.since < local.astimezone(UTC) < past.until:
                yield local.astimezone(UTC)
        day += timedelta(days=1)


def _ended(past: Past, rows: Sequence[Transition], seen: SeenUse | None) -> datetime | None:
    """When the kernel ended, within this time; None: it did not. The log has it only of what was not on the GPU."""
    if rows and rows[-1].event is Event.KERNEL_GONE:
        return rows[-1].at
    if seen is None or seen.gone_at is None:
        return None
    return max([seen.gone_at, *(row.at for row in rows[-1:])])


def _trace(
    past: Past, kernel_id: str, rows: Sequence[Transition], seen: SeenUse | None, schedule: Schedule
) -> TraceKernel | None:
    """The kernel's stretches of use as cells; None: nothing is known of any."""
    ended = _ended(past, rows, seen) or past.until

    def idle_for(row: Mapping[str, Any]) -> timedelta:
        if row["reason"] is Reason.REQUESTED:
            return timedelta(0)
        policy = [policy for at, policy in schedule if at <= past.offset(row["at"])][-1]
        return policy.idle_after if row["reason"] is Reason.IDLE else policy.pressure_idle_after

    read = [
        {"at": row.at, "event": row.event, "reason": row.reason, "footprint": row.footprint}
        for row in rows
        if row.footprint
    ]
    used = [
        Stretch(began, used_at, sum(row["footprint"].values()), row["event"] is not Event.RECLAIM_STARTED)
        for began, used_at, row in stretches(read, idle_for, ended)
    ]
    if seen is not None:
        resident_before = bool(read) and read[0]["event"] is Event.RECLAIM_STARTED
        used = refined(used, resident_before, seen)
    owner, label = (rows[0].owner, rows[0].label) if rows or seen is None else (seen.owner, seen.label)
    cells = [
        Row(
            kernel_id,
            owner,
            label,
            past.offset(one.began),
            past.offset(one.used_at) - past.offset(one.began),
            one.held,
        )
        for one in used
    ]
    return assembled(cells).kernels[0] if cells else None


def _gpus(rows: Iterable[Transition], seen: SeenUse | None) -> set[str]:
    return {*chain.from_iterable(row.footprint for row in rows), *(() if seen is None else seen.footprint)}


def _logged(past: Past, rows: Sequence[Transition]) -> int:
    """Bytes × microseconds in host memory by the log itself, from this time's first row of the kernel on."""
    total, since, held = 0, None, 0
    for row in rows:
        if since is not None and row.event in (Event.RESTORE_STARTED, Event.KERNEL_GONE):
            total += held * (past.offset(row.at) - since)
            since = None
        elif row.event is Event.RECLAIM_DONE:
            since, held = past.offset(row.at), sum(row.footprint.values())
    return total + (held * (past.span - since) if since is not None else 0)


def _brought(tally: Tally) -> Brought:
    return Brought(
        reclaimed_gib_hours=tally.reclaimed_gib_hours,
        waits=len(tally.waits),
        waited_seconds=sum(tally.waits) / SECOND,
        restores=tally.events[Event.RESTORE_DONE.value],
    )
