"""What other rules would have made of a week, held to arithmetic by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from jupyter_gpu_reclaim.core.figures import Share
from jupyter_gpu_reclaim.core.model import Event, Phase, Policy, Reason, Transition
from jupyter_gpu_reclaim.core.policy_rules import Subject
from jupyter_gpu_reclaim.core.usage import KernelAmounts
from jupyter_gpu_reclaim.hub.dry_run import Past, compare, schedule_of
from jupyter_gpu_reclaim.hub.dry_run_words import NOTHING
from jupyter_gpu_reclaim.hub.policies import Book, book_from, book_of
from jupyter_gpu_reclaim.hub.seen_use import seen_use

GIB = 1 << 30
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
AS_NOW = book_of([{"set": {"idle_after_seconds": 1200}}])
OUT_4, OUT_2 = 0.05 + 4 * GIB / 4e9, 0.05 + 2 * GIB / 4e9  # seconds to move so much
IN_4, IN_2 = 0.05 + 4 * GIB / 7e9, 0.05 + 2 * GIB / 7e9


def row(kernel: str, event: Event, at: timedelta, gib: int, reason: Reason | None = None) -> Transition:
    """A row of ada's or bob's kernel so long after Monday's beginning."""
    phase = {Event.KERNEL_GONE: Phase.GONE, Event.RECLAIM_DONE: Phase.RECLAIMED}.get(event, Phase.RESIDENT)
    owner = {"a": "ada", "b": "bob"}[kernel]
    return Transition(
        id=f"{kernel}{at}{event}", at=MONDAY + at, kernel_id=kernel, event=event, phase=phase, reason=reason,
        owner=owner, footprint={"GPU-1": gib * GIB},
    )  # fmt: skip


def hours(count: float, **more: float) -> timedelta:
    """From the beginning."""
    return timedelta(hours=count, **more)


def week(*more: Transition) -> Past:
    """Ada's 4 GiB: used until Monday 10:00 and on Tuesday from 10:00 to 12:00, her kernel ended on Wednesday at 12:00.

    Bob's 2 GiB: used until Monday 12:00 and on Tuesday from 0:00 until 6:00; his kernel lives on.
    """
    rows = [
        row("a", Event.RECLAIM_STARTED, hours(10, minutes=20), 4, Reason.IDLE),
        row("a", Event.RECLAIM_DONE, hours(10, minutes=20, seconds=1), 4),
        row("a", Event.RESTORE_STARTED, hours(34), 4),
        row("a", Event.RESTORE_DONE, hours(34), 4),
        row("a", Event.RECLAIM_STARTED, hours(36, minutes=20), 4, Reason.IDLE),
        row("a", Event.RECLAIM_DONE, hours(36, minutes=20, seconds=1), 4),
        row("a", Event.KERNEL_GONE, hours(60), 4),
        row("b", Event.RECLAIM_STARTED, hours(12, minutes=20), 2, Reason.IDLE),
        row("b", Event.RECLAIM_DONE, hours(12, minutes=20, seconds=1), 2),
        row("b", Event.RESTORE_STARTED, hours(24), 2),
        row("b", Event.RESTORE_DONE, hours(24), 2),
        row("b", Event.RECLAIM_STARTED, hours(30, minutes=20), 2, Reason.IDLE),
        row("b", Event.RECLAIM_DONE, hours(30, minutes=20, seconds=1), 2),
        *more,
    ]
    return Past(
        rows=tuple(sorted(rows, key=lambda one: one.at)),
        since=MONDAY,
        until=MONDAY + timedelta(days=7),
        subjects={"a": Subject(user="ada"), "b": Subject(user="bob", groups=frozenset({"course"}))},
        gpu_bytes={"GPU-1": 16 * GIB},
    )


def by_hand(idle_minutes: float) -> float:
    """GiB-hours in host memory if each reclaim begins so long after the last use."""
    idle = idle_minutes / 60
    # A restore lets the rest of the day begin later by its own length, so that the last reclaim ends as much later.
    a = (34 - 10 - idle - OUT_4 / 3600) + (60 - 36 - idle - (IN_4 + OUT_4) / 3600)
    b = (24 - 12 - idle - OUT_2 / 3600) + (168 - 30 - idle - (IN_2 + OUT_2) / 3600)
    return 4 * a + 2 * b


TICKS = (
    6 * 4 * 5 / 3600
)  # GiB-hours: four reclaims of at most 4 GiB, each at the next look, 5 s later at most


def test_a_shorter_idle_time_reclaims_more() -> None:
    """Of four rests each begins 15 minutes sooner: 2 × 4 GiB and 2 × 2 GiB, a quarter of an hour each, are 3 GiB-h."""
    found = compare(week(), AS_NOW, book_of([{"set": {"idle_after_seconds": 300}}]))
    assert found.in_force.reclaimed_gib_hours == pytest.approx(by_hand(20), abs=TICKS)
    assert found.tried.reclaimed_gib_hours == pytest.approx(by_hand(5), abs=TICKS)
    more = found.tried.reclaimed_gib_hours - found.in_force.reclaimed_gib_hours
    assert more == pytest.approx((2 * 4 + 2 * 2) * 0.25, abs=TICKS)
    assert (found.in_force.waits, found.tried.waits) == (2, 2)
    assert found.in_force.waited_seconds == pytest.approx(IN_4 + IN_2, abs=1e-5)
    assert (found.in_force.restores, found.tried.restores, found.logged_restores) == (2, 2, 2)
    assert found.sentence == (
        "The rules tried would have reclaimed 3.0 GiB-h more and caused 0 more waits. There may have "
        "been more of both: rests too short for the rules in force are not in the log."
    )


def test_the_rules_in_force_are_replayed_as_the_log_has_it() -> None:
    """Under the rules that held, the replay reclaims what the log itself says was reclaimed, but for seconds."""
    found = compare(week(), AS_NOW, AS_NOW)
    assert found.in_force == found.tried
    assert found.logged_gib_hours == pytest.approx(found.in_force.reclaimed_gib_hours, abs=TICKS)
    assert (found.kernels, found.left_out, found.split_gpus, found.unknown_gpus) == (2, 0, 0, 0)


def test_nothing_is_reclaimed_where_the_rules_tried_say_off() -> None:
    """With `off`, or a dry run, for everybody no byte is moved and nobody waits, nor for what has ended."""
    for mode in ("off", "dry_run"):
        found = compare(week(), AS_NOW, book_of([{"set": {"mode": mode}}]))
        assert (found.tried.reclaimed_gib_hours, found.tried.waits, found.tried.restores) == (0, 0, 0)
        assert found.sentence.endswith("GiB-h less and caused 2 fewer waits.")


def test_each_user_has_the_rule_that_fits() -> None:
    """A rule for bob's group changes nothing of ada's; that they are replayed apart is said."""
    book = book_of([{"match": {"groups": ["course"]}, "set": {"idle_after_seconds": 300}},
                    {"set": {"idle_after_seconds": 1200}}])  # fmt: skip
    found = compare(week(), AS_NOW, book)
    more = found.tried.reclaimed_gib_hours - found.in_force.reclaimed_gib_hours
    assert more == pytest.approx(2 * 2 * 0.25, abs=TICKS)
    assert found.split_gpus == 1


def test_a_rule_holds_in_its_hours_only() -> None:
    """A shorter time from 9:00 to 11:00 on Mondays counts for the one rest that begins then: ada's first."""
    book = book_from(
        'rules: [{match: {days: [mon], hours: "09:00-11:00"}, set: {idle_after_seconds: 300}},'
        " {set: {idle_after_seconds: 1200}}]",
        "p",
    )
    schedule = schedule_of(book, Subject(user="ada"), week())
    assert [(at / 3.6e9, policy.idle_after) for at, policy in schedule] == [
        (0, timedelta(minutes=20)),
        (9, timedelta(minutes=5)),
        (11, timedelta(minutes=20)),
    ]
    found = compare(week(), AS_NOW, book)
    more = found.tried.reclaimed_gib_hours - found.in_force.reclaimed_gib_hours
    assert more == pytest.approx(4 * 0.25, abs=TICKS)


def test_a_rule_that_begins_counts_for_who_is_idle_already() -> None:
    """Idle since 10:00, with five minutes asked for from 10:10 on: reclaimed once warned, at 10:11, not at 10:20."""
    book = book_from(
        'rules: [{match: {days: [mon], hours: "10:10-12:00"}, set: {idle_after_seconds: 300}},'
        " {set: {idle_after_seconds: 1200}}]",
        "p",
    )
    found = compare(week(), AS_NOW, book)
    more = found.tried.reclaimed_gib_hours - found.in_force.reclaimed_gib_hours
    assert more == pytest.approx(4 * 9 / 60, abs=TICKS)


def test_what_cannot_be_replayed_is_counted() -> None:
    """A kernel on two GPUs is left out and counted; a GPU nobody has told of lately is counted, too."""
    both = Transition(
        id="x", at=MONDAY + hours(5), kernel_id="c", event=Event.RECLAIM_STARTED, phase=Phase.RECLAIMING,
        reason=Reason.IDLE, footprint={"GPU-1": GIB, "GPU-2": GIB},
    )  # fmt: skip
    known = week(both)
    found = compare(
        Past(rows=known.rows, since=known.since, until=known.until, subjects={}, gpu_bytes={}), AS_NOW, AS_NOW
    )
    assert (found.kernels, found.left_out, found.unknown_gpus) == (2, 1, 1)


def test_without_a_rule_the_defaults_hold() -> None:
    """Whom no rule fits is taken to have the default settings, and an empty log brings nothing."""
    assert schedule_of(Book(), Subject(user="zoe"), week()) == ((0, Policy()),)
    nothing = Past(rows=(), since=MONDAY, until=MONDAY + hours(1), subjects={}, gpu_bytes={})
    found = compare(nothing, AS_NOW, Book())
    assert (found.tried.reclaimed_gib_hours, found.sentence) == (0, NOTHING)


def test_a_longer_time_spares_the_waits_of_short_rests() -> None:
    """Ada rests for 24 hours twice: with 23 asked for, an hour of each is left, with 25 nothing, and no wait."""
    book = book_of([{"match": {"users": ["ada"]}, "set": {"idle_after_seconds": 23 * 3600}},
                    {"set": {"idle_after_seconds": 1200}}])  # fmt: skip
    longer = book_of([{"match": {"users": ["ada"]}, "set": {"idle_after_seconds": 25 * 3600}},
                      {"set": {"idle_after_seconds": 1200}}])  # fmt: skip
    before, found = compare(week(), AS_NOW, book), compare(week(), AS_NOW, longer)
    assert before.tried.waits == 2
    lost = before.in_force.reclaimed_gib_hours - before.tried.reclaimed_gib_hours
    assert lost == pytest.approx(4 * 2 * (23 - 1 / 3), abs=TICKS)
    assert (found.in_force.waits, found.tried.waits, found.tried.restores) == (2, 1, 1)
    assert found.in_force.reclaimed_gib_hours - found.tried.reclaimed_gib_hours == pytest.approx(
        4 * 2 * (24 - 1 / 3), abs=TICKS
    )
    assert found.sentence.endswith("less and caused 1 fewer wait.")


def minutes(kernel: str, gib: int, *spans: tuple[datetime, int, bool]) -> Iterator[tuple[int, Share]]:
    """Samples of a kernel: from an instant on, for so many minutes, at work or idle."""
    held = gib * GIB // 1024 * 60
    for begin, count, at_work in spans:
        amounts = KernelAmounts(ms=60_000, resident=held, idle=0 if at_work else held)
        for number in range(count):
            at = int(begin.timestamp()) + 60 * number
            owner = {"a": "ada", "b": "bob"}[kernel]
            yield at, Share(kernel_id=kernel, label=kernel, owner=owner, gpu="GPU-1", amounts=amounts)


SOONER = book_of([{"set": {"idle_after_seconds": 300}}])


def test_rests_too_short_for_the_rules_in_force_are_known_from_samples() -> None:
    """A kernel that the log never saw works for 10 minutes and rests for 15, twice, then works: with 5 minutes asked
    for it is away for 10 minutes of each rest, less the move, and both cells after a rest wait for it."""
    began = MONDAY + hours(10)
    day = [
        (began, 10, True), (began + hours(0, minutes=10), 15, False), (began + hours(0, minutes=25), 10, True),
        (began + hours(0, minutes=35), 15, False), (began + hours(0, minutes=50), 10, True),
    ]  # fmt: skip
    seen = seen_use([*minutes("a", 4, *day), *minutes("b", 2, (began, 120, True))])
    assert seen["a"].gone_at == began + hours(1)
    morning = replace(week(), rows=(), seen=seen, until=MONDAY + hours(12))
    found = compare(morning, AS_NOW, SOONER)
    assert (found.kernels, found.in_force.reclaimed_gib_hours, found.in_force.waits) == (2, 0, 0)
    assert found.tried.reclaimed_gib_hours == pytest.approx(4 * 2 * (600 - OUT_4) / 3600, abs=TICKS / 2)
    assert found.tried.waits == 2
    assert found.tried.waited_seconds == pytest.approx(2 * IN_4, abs=1e-5)
    assert found.sentence == (
        "The rules tried would have reclaimed 1.3 GiB-h more and caused 2 more waits. There may have been more of "
        "both: rests too short for the rules in force are known from 2026-03-02 10:00 UTC on."
    )


def test_a_rest_between_a_restore_and_a_reclaim_is_cut_out_of_the_use() -> None:
    """Of Ada's two hours on Tuesday a quarter was a rest: with 5 minutes asked for that is one more wait, and 10
    minutes of 4 GiB beside what begins sooner; where no sample was taken she is in use as before."""
    tuesday = MONDAY + hours(34)
    rest = [
        (tuesday, 30, True),
        (tuesday + hours(0, minutes=30), 15, False),
        (tuesday + hours(0, minutes=45), 75, True),
    ]
    known = replace(week(), seen=seen_use(minutes("a", 4, *rest)))
    found, before = compare(known, AS_NOW, SOONER), compare(week(), AS_NOW, SOONER)
    assert found.in_force == before.in_force
    assert (before.tried.waits, found.tried.waits) == (2, 3)
    more = found.tried.reclaimed_gib_hours - before.tried.reclaimed_gib_hours
    assert more == pytest.approx(4 * (600 - OUT_4 - IN_4) / 3600, abs=TICKS)


def test_what_was_not_seen_to_be_idle_counts_as_use() -> None:
    """Minutes observed in part, with code waiting, or without any sample end a rest; where all is rest nothing is cut
    but the end, and a kernel that other samples outlive is gone."""
    began = MONDAY + hours(10)
    idle = dict(minutes("a", 4, (began, 10, False)))
    partly, waits = (began + hours(0, minutes=number) for number in (3, 6))
    half = {"ms": 30_000, "resident": 2 * GIB // 1024 * 60, "idle": 2 * GIB // 1024 * 60}
    for at, change in ((partly, half), (waits, {"waited_ms": 5})):
        share = idle[int(at.timestamp())]
        idle[int(at.timestamp())] = replace(share, amounts=replace(share.amounts, **change))
    del idle[int((began + hours(0, minutes=8)).timestamp())]
    use = seen_use(idle.items())["a"]
    assert [
        ((begin - began) // timedelta(minutes=1), (end - began) // timedelta(minutes=1))
        for begin, end in use.rests
    ] == [(0, 3), (4, 6), (7, 8), (9, 10)]
    assert use.gone_at is None
    assert (use.used_until - began) // timedelta(minutes=1) == 9
    assert use.footprint == {"GPU-1": 4 * GIB}


def test_a_rule_for_a_kernelspec_is_tried_on_its_kernels_alone() -> None:
    """Ada's kernel is known to be of the spec that the rule names, bob's of another: only hers is reclaimed sooner."""
    book = book_of([{"match": {"kernelspecs": ["gpu*"]}, "set": {"idle_after_seconds": 300}},
                    {"set": {"idle_after_seconds": 1200}}])  # fmt: skip
    subjects = {
        "a": Subject(user="ada", kernelspec="gpu-torch"),
        "b": Subject(user="bob", kernelspec="python3"),
    }
    found = compare(replace(week(), subjects=subjects), AS_NOW, book)
    more = found.tried.reclaimed_gib_hours - found.in_force.reclaimed_gib_hours
    assert more == pytest.approx(2 * 4 * 0.25, abs=TICKS)
