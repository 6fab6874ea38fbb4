"""What holds for `decide()` in every world that hypothesis can think of."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import (
    GIB,
    MINUTE,
    NOW,
    away,
    counts,
    gpu,
    histories,
    idle_kernel,
    policies,
    snapshots,
    stays,
    world,
)

from jupyter_gpu_reclaim.core.admission import OVERTAKEN_AT_MOST, line, track_overtaken
from jupyter_gpu_reclaim.core.model import (
    Admit,
    Decision,
    Event,
    Holding,
    Phase,
    Policy,
    Reason,
    Reclaim,
    Restore,
    Snapshot,
    Wait,
)
from jupyter_gpu_reclaim.core.phase import advance
from jupyter_gpu_reclaim.core.policy import decide
from jupyter_gpu_reclaim.core.pressure import track_pressure
from jupyter_gpu_reclaim.core.room import smallest_set, still_to_come

Pairs = list[tuple[Holding, Decision]]


def decided(snapshot: Snapshot, policy: Policy, history: Mapping[str, datetime]) -> Pairs:
    """Each holding with its decision, the pressure tracked as the loop does it."""
    since = track_pressure(snapshot, policy, history)
    return list(zip(snapshot.holdings, decide(snapshot, policy, since), strict=True))


def admitted(pairs: Pairs) -> list[Holding]:
    """The resident kernels whose waiting code may go ahead."""
    return [holding for holding, decision in pairs if isinstance(decision, Admit)]


def reclaimed(pairs: Pairs) -> list[Holding]:
    """The kernels chosen for reclaim."""
    return [holding for holding, decision in pairs if isinstance(decision, Reclaim)]


def restored(pairs: Pairs) -> list[Holding]:
    """The kernels admitted for restore."""
    return [holding for holding, decision in pairs if isinstance(decision, Restore)]


@given(snapshots(), policies, histories)
def test_every_kernel_gets_exactly_one_decision(snapshot, policy, history):
    """One decision per holding, in order, each with a reason: nobody is forgotten or acted on twice."""
    pairs = decided(snapshot, policy, history)
    assert [decision.kernel_id for _, decision in pairs] == [
        holding.kernel_id for holding in snapshot.holdings
    ]
    assert all(isinstance(decision.reason, Reason) for _, decision in pairs)


@given(snapshots(), policies, histories, st.randoms())
def test_the_order_of_kernels_changes_nothing(snapshot: Snapshot, policy, history, rnd: random.Random):
    """The same world listed in another order gets the same decisions, and so does the same call made again."""
    first = {d.kernel_id: d for _, d in decided(snapshot, policy, history)}
    shuffled = list(snapshot.holdings)
    rnd.shuffle(shuffled)
    again = decided(replace(snapshot, holdings=tuple(shuffled)), policy, history)
    assert {d.kernel_id: d for _, d in again} == first


@given(snapshots(), policies, histories)
def test_nothing_in_use_or_unknown_is_ever_reclaimed(snapshot: Snapshot, policy, history):
    """Work, waiting code, anything unknown, anything unmovable: each by itself keeps a kernel where it is."""
    for holding in reclaimed(decided(snapshot, policy, history)):
        assert holding.phase is Phase.RESIDENT
        assert holding.running_since is None
        assert holding.waiting == 0
        assert holding.background_work == ()
        assert holding.gpu_busy is False
        assert holding.last_active_at is not None
        assert holding.managed
        assert holding.mechanism is not None
        assert holding.distrusted is None
        assert holding.footprint_bytes > 0
        assert snapshot.gpus is not None
        assert set(holding.footprint) <= {gpu.uuid for gpu in snapshot.gpus}
        assert policy.mode != "off"


@given(snapshots(), policies, histories)
def test_only_a_person_goes_over_pin_cooldown_size_and_rest(snapshot, policy, history):
    """Whatever the policy reclaims by itself is neither pinned nor resting nor small nor used too recently."""
    for holding, decision in decided(snapshot, policy, history):
        if not isinstance(decision, Reclaim) or decision.reason is Reason.REQUESTED:
            continue
        assert holding.reclaim_wanted_at is None
        assert holding.pinned_until is None or holding.pinned_until <= NOW
        if holding.phase_since is not None and not holding.restored_early:
            assert NOW - holding.phase_since >= policy.cooldown
        assert holding.retry_at is None or holding.retry_at <= NOW
        assert holding.footprint_bytes >= policy.min_reclaim_bytes
        least = policy.idle_after if decision.reason is Reason.IDLE else policy.pressure_idle_after
        assert NOW - holding.last_active_at >= min(least, policy.idle_after)
        if decision.reason is Reason.IDLE and policy.warn_before and policy.mode == "on":
            assert holding.warned_at is not None
            assert holding.warned_at >= holding.last_active_at
            assert NOW - holding.warned_at >= min(policy.warn_before, policy.idle_after / 2)


@given(snapshots(), policies, histories)
def test_reclaims_together_leave_the_host_its_reserve(snapshot: Snapshot, policy, history):
    """Everything chosen and everything under way fits host memory above the reserve; unknown memory is none."""
    chosen = reclaimed(decided(snapshot, policy, history))
    if not chosen:
        return
    assert snapshot.host_available_bytes is not None
    moving = sum(h.footprint_bytes for h in snapshot.holdings if h.phase is Phase.RECLAIMING)
    taken = moving + sum(h.footprint_bytes for h in chosen)
    assert snapshot.host_available_bytes - taken >= policy.host_reserve_bytes


@given(snapshots(), policies, histories)
def test_whoever_goes_ahead_never_exceeds_what_is_free(snapshot: Snapshot, policy, history):
    """On every observed GPU the restores and allocations admitted fit beside what those under way are still to take."""
    free = {gpu.uuid: gpu.free_bytes for gpu in snapshot.gpus or ()}
    pairs = decided(snapshot, policy, history)
    needs = [h.footprint for h in restored(pairs)] + [h.room_wanted for h in admitted(pairs)]
    assert all(h.waiting for h in restored(pairs) if not set(h.footprint) <= set(free))
    if any(not set(need) <= set(free) for need in needs):
        return
    arriving = [still_to_come(h) for h in snapshot.holdings if h.phase is Phase.RESTORING]
    taking = [h.room_wanted for h in snapshot.holdings if h.phase is Phase.RESIDENT and h.admitted_at]
    for uuid, room in free.items():
        need = sum(each.get(uuid, 0) for each in needs)
        if need:
            assert need + sum(each.get(uuid, 0) for each in arriving + taking) <= room


@given(snapshots(), policies, histories)
def test_no_more_kernels_run_on_a_gpu_than_places(snapshot: Snapshot, policy: Policy, history):
    """Whoever is let go ahead to run finds a place on each GPU that it holds memory on."""
    pairs, limit = decided(snapshot, policy, history), policy.max_running_per_gpu
    goes = [
        h
        for h, d in pairs
        if isinstance(d, Restore | Admit)
        and d.reason in (Reason.USER_CODE, Reason.PLACE)
        and not h.running_since
    ]
    running = [
        h
        for h in snapshot.holdings
        if (h.phase is Phase.RESIDENT and (h.running_since or h.admitted_at))
        or (h.phase is Phase.RESTORING and h.waiting)
    ]
    for uuid in {uuid for h in goes for uuid, n in h.footprint.items() if n} if limit else ():
        assert sum(h.footprint.get(uuid, 0) > 0 for h in goes + running) <= limit


@given(snapshots(), policies, histories, counts)
def test_nobody_is_overtaken_more_often_than_the_rule_says(snapshot: Snapshot, policy, history, overtaken):
    """Whoever goes ahead of others needs fewer bytes than each, and none has been overtaken to the bound before."""
    since = track_pressure(snapshot, policy, history)
    decisions = decide(snapshot, policy, since, overtaken)
    by_id = {h.kernel_id: h for h in snapshot.holdings}
    for decision in decisions:
        for name in decision.passed if isinstance(decision, Restore) else ():
            assert by_id[name].footprint_bytes > by_id[decision.kernel_id].footprint_bytes
            assert isinstance(next(d for d in decisions if d.kernel_id == name), Wait)
    after = track_overtaken(decisions, overtaken)
    for name, times in after.items():
        assert times <= max(OVERTAKEN_AT_MOST, overtaken.get(name, 0))


@given(snapshots(), policies, histories)
def test_an_early_restore_costs_nobody_anything(snapshot: Snapshot, policy: Policy, history):
    """With and without wishes to prefetch, everybody else is decided alike; what is granted leaves the headroom."""
    pairs = decided(snapshot, policy, history)
    early = [h for h, d in pairs if isinstance(d, Restore) and d.reason is Reason.PREFETCH]
    plain = replace(snapshot, holdings=tuple(replace(h, prefetch_wanted_at=None) for h in snapshot.holdings))
    without = decided(plain, policy, history)
    granted = {h.kernel_id for h in snapshot.holdings if h.prefetch_wanted_at and h.phase is Phase.RECLAIMED}
    assert [d for _, d in pairs if d.kernel_id not in granted] == [
        d for _, d in without if d.kernel_id not in granted
    ]
    going = early + [h for h in restored(pairs) if h not in early]
    for seen in snapshot.gpus or ():
        if any(h.footprint.get(seen.uuid) for h in early):
            left = seen.free_bytes - sum(h.footprint.get(seen.uuid, 0) for h in going)
            assert left >= policy.headroom_bytes


@given(snapshots(), policies, histories, stays)
def test_a_longer_residence_is_kept_by_all_but_persons(snapshot: Snapshot, policy, history, residence):
    """Where moving takes too much time, no policy takes a kernel before its stay on each of its GPUs is over."""
    decisions = decide(snapshot, policy, track_pressure(snapshot, policy, history), {}, residence)
    for holding, decision in zip(snapshot.holdings, decisions, strict=True):
        if isinstance(decision, Reclaim) and decision.reason is not Reason.REQUESTED and holding.phase_since:
            stay = max((residence.get(uuid, 0 * MINUTE) for uuid in holding.footprint), default=0 * MINUTE)
            assert holding.restored_early or NOW - holding.phase_since >= stay


@given(snapshots(), policies, histories)
def test_no_more_reclaims_at_once_than_allowed(snapshot: Snapshot, policy, history):
    """Reclaims chosen and under way stay within `max_in_flight`; in a dry run nothing is under way."""
    pairs = decided(snapshot, policy, history)
    moving = sum(h.phase is Phase.RECLAIMING for h in snapshot.holdings)
    if policy.mode == "dry_run":
        assert not any(decision.reason is Reason.TURN for _, decision in pairs)
    else:
        assert len(reclaimed(pairs)) <= max(0, policy.max_in_flight - moving)


@given(snapshots(), policies, histories)
def test_every_act_is_a_legal_step(snapshot, policy, history):
    """The state machine knows each step that is decided, and nothing comes back that nobody asked for."""
    for holding, decision in decided(snapshot, policy, history):
        if isinstance(decision, Reclaim):
            assert advance(holding.phase, Event.RECLAIM_STARTED) is Phase.RECLAIMING
        inside = holding.phase is Phase.RESIDENT
        if isinstance(decision, Admit) or (isinstance(decision, Wait) and inside):
            assert inside
            assert any(holding.room_wanted.values()) or holding.place_wanted_at is not None
        elif isinstance(decision, Restore | Wait):
            early = decision.reason is Reason.PREFETCH and holding.prefetch_wanted_at
            assert holding.waiting or holding.restore_wanted_at is not None or early
            assert advance(holding.phase, Event.RESTORE_STARTED) is Phase.RESTORING
            assert decision.reason is not Reason.USER_CODE or holding.waiting


@given(snapshots(), policies, histories)
def test_the_queue_is_numbered_in_order_of_arrival(snapshot, policy, history):
    """Positions run from 1 without gaps: running code, code at the gate, wishes, and each earlier before later."""
    queue = [(d.position, h) for h, d in decided(snapshot, policy, history) if isinstance(d, Wait)]
    queue.sort(key=lambda item: item[0])
    assert [position for position, _ in queue] == list(range(1, len(queue) + 1))
    assert [h for _, h in queue] == [w.holding for w in line([h for _, h in queue], policy, NOW)]


@given(snapshots(), policies, histories)
def test_a_dry_run_says_what_would_be_done(snapshot, policy: Policy, history):
    """Whatever "on" would reclaim, "dry_run" says, warning nobody; restores are the same in every mode."""
    real = decided(snapshot, replace(policy, mode="on", max_in_flight=99, warn_before=0 * MINUTE), history)
    dry = decided(snapshot, replace(policy, mode="dry_run"), history)
    off = decided(snapshot, replace(policy, mode="off"), history)
    assert [d for _, d in dry] == [d for _, d in real]
    urgent = Reason.USER_CODE, Reason.REQUESTED  # what comes early depends on who waits
    assert [d for _, d in off if d.reason in urgent and isinstance(d, Restore) and not d.passed] == [
        d for _, d in real if d.reason in urgent and isinstance(d, Restore) and not d.passed
    ]
    assert reclaimed(off) == []


amounts = st.dictionaries(st.sampled_from(["g0", "g1"]), st.integers(0, 9), min_size=1)


@given(amounts, st.lists(amounts, max_size=7), st.integers(0, 40))
def test_the_set_that_makes_room_has_no_member_too_many(gap, footprints, host_bytes):
    """It fills the gap if it says so, keeps to host memory, and without any one member the gap would be wider."""
    ranked = [idle_kernel(f"k{i}", footprint=footprint) for i, footprint in enumerate(footprints)]
    chosen, left = smallest_set(gap, ranked, host_bytes)

    def unfilled(members: list[Holding]) -> int:
        given_back = {uuid: sum(h.footprint.get(uuid, 0) for h in members) for uuid in gap}
        return sum(max(0, n - given_back[uuid]) for uuid, n in gap.items())

    assert sum(left.values()) == unfilled(chosen)
    assert sum(h.footprint_bytes for h in chosen) <= host_bytes
    for member in chosen:
        assert unfilled([h for h in chosen if h is not member]) > unfilled(chosen)
    if sum(h.footprint_bytes for h in ranked) <= host_bytes:
        assert sum(left.values()) == unfilled(ranked)


@given(
    st.integers(1, 16),
    st.lists(st.tuples(st.integers(1, 5), st.integers(3, 15)), max_size=6),
    st.integers(0, 8),
)
def test_room_is_made_whole_or_not_at_all(need, others, free):
    """For one waiting kernel the victims together free what it lacks, none of them in vain; or there are none."""
    kernels = [idle_kernel(f"k{i}", minutes=minutes, gib=gib) for i, (gib, minutes) in enumerate(others)]
    pairs = decided(world(away(gib=need), *kernels, gpus=(gpu(free=free),)), Policy(max_in_flight=99), {})
    victims = reclaimed(pairs)
    lack = (need - free) * GIB
    freed = sum(h.footprint_bytes for h in victims)
    could = sum(h.footprint_bytes for h in kernels)
    if lack <= 0:
        assert victims == []
        assert isinstance(pairs[0][1], Restore)
    elif could < lack:
        assert victims == []
        assert pairs[0][1] == Wait("w", Reason.NO_ROOM, 1, {"g0": lack})
    else:
        assert freed >= lack
        assert all(freed - victim.footprint_bytes < lack for victim in victims)


@settings(max_examples=60)
@given(
    st.integers(5, 16),
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 12), st.integers(1, 5)), max_size=12),
    st.integers(1, 3),
)
def test_whoever_waits_longest_is_served_though_others_keep_coming(big, crowd, max_in_flight):
    """Round after round others arrive, run and go idle; the kernel at the head comes back all the same.

    The crowd is (GiB, round of arrival, rounds of work). Every kernel works for a bounded time, as cells do.
    """
    policy = Policy(pressure_idle_after=2 * MINUTE, max_in_flight=max_in_flight)
    residents = [idle_kernel(f"old{i}", minutes=3 + i, gib=4) for i in range(3)]
    kernels = {h.kernel_id: h for h in [*residents, away("head", gib=big, waited=9)]}
    work_ends: dict[str, int] = {}
    overtaken: dict[str, int] = {}
    for turn in range(60):
        now = NOW + turn * MINUTE
        for i, (gib, arrival, _) in enumerate(crowd):
            if arrival == turn:
                kernels[f"new{i}"] = away(f"new{i}", gib=gib, restore_wanted_at=now)
        _end_work(kernels, work_ends, turn, now)
        used = sum(h.footprint_bytes for h in kernels.values() if h.phase is Phase.RESIDENT)
        seen = world(*kernels.values(), gpus=(gpu(free=16 - used // GIB),))
        decisions = decide(replace(seen, taken_at=now), policy, {}, overtaken)
        overtaken = track_overtaken(decisions, overtaken)
        assert overtaken.get("head", 0) <= OVERTAKEN_AT_MOST
        for decision in decisions:
            name = decision.kernel_id
            if isinstance(decision, Reclaim):
                kernels[name] = replace(
                    kernels[name], phase=Phase.RECLAIMED, restore_wanted_at=None, waiting=0
                )
            elif isinstance(decision, Restore):
                rounds = crowd[int(name[3:])][2] if name.startswith("new") else 1
                work_ends[name] = turn + rounds
                kernels[name] = replace(
                    kernels[name], phase=Phase.RESIDENT, waiting=0, restore_wanted_at=None
                )
                kernels[name] = replace(kernels[name], running_since=now)
        if kernels["head"].phase is Phase.RESIDENT:
            return
    raise AssertionError(f"the head still waits: {kernels}")


def _end_work(kernels: dict[str, Holding], work_ends: dict[str, int], turn: int, now: datetime) -> None:
    for name, end in list(work_ends.items()):
        if end <= turn:
            kernels[name] = replace(kernels[name], running_since=None, last_active_at=now)
            del work_ends[name]
