"""The rules of `decide()`, one plain world each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from worlds import GIB, MINUTE, NOW, away, gpu, idle_kernel, world

from jupyter_gpu_reclaim.core.admission import OVERTAKEN_AT_MOST, track_overtaken
from jupyter_gpu_reclaim.core.eligibility import reclaim_due_at
from jupyter_gpu_reclaim.core.model import (
    Admit,
    Holding,
    Keep,
    Phase,
    Policy,
    Reason,
    Reclaim,
    Restore,
    Wait,
    Warn,
)
from jupyter_gpu_reclaim.core.policy import decide
from jupyter_gpu_reclaim.core.pressure import track_pressure

POLICY = Policy(warn_before=timedelta(0))
LATER = NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"managed": False}, Reason.UNMANAGED),
        ({"footprint": {}}, Reason.NO_GPU_MEMORY),
        ({"mechanism": None}, Reason.UNSUPPORTED),
        ({"mechanism": None, "running_since": NOW}, Reason.RUNNING),
        ({"running_since": NOW}, Reason.RUNNING),
        ({"waiting": 1}, Reason.RUNNING),
        ({"background_work": ("thread",)}, Reason.BACKGROUND_WORK),
        ({"background_work": None}, Reason.BACKGROUND_UNKNOWN),
        ({"gpu_busy": True}, Reason.GPU_BUSY),
        ({"gpu_busy": None}, Reason.GPU_UNKNOWN),
        ({"last_active_at": None}, Reason.ACTIVITY_UNKNOWN),
        ({"footprint": {"elsewhere": 4 * GIB}}, Reason.GPU_UNKNOWN),
        ({"pinned_until": LATER}, Reason.PINNED),
        ({"phase_since": NOW - timedelta(seconds=30)}, Reason.COOLDOWN),
        ({"retry_at": LATER}, Reason.RETRY_LATER),
        ({"footprint": {"g0": 1 << 20}}, Reason.TOO_SMALL),
        ({"last_active_at": NOW - 5 * MINUTE}, Reason.RECENTLY_ACTIVE),
        ({"phase_since": NOW - 5 * MINUTE}, Reason.RECENTLY_ACTIVE),
        ({"footprint": {"g0": 300 * GIB}}, Reason.HOST_MEMORY),
        ({"restore_wanted_at": NOW}, Reason.ALREADY_RESIDENT),
        ({"phase": Phase.RECLAIMING}, Reason.IN_FLIGHT),
        ({"phase": Phase.RESTORING}, Reason.IN_FLIGHT),
        ({"phase": Phase.RECLAIMED}, Reason.ALREADY_RECLAIMED),
        ({"phase": Phase.RECLAIMED, "managed": False}, Reason.LINK_LOST),
        ({"phase": Phase.LOST}, Reason.LOST),
        ({"phase": Phase.GONE}, Reason.KERNEL_ENDED),
    ],
)
def test_why_a_kernel_is_left_alone(facts, reason):
    """Each thing that speaks against a reclaim is named by its own reason; without it the kernel is reclaimed."""
    assert decide(world(idle_kernel("a")), POLICY, {}) == (Reclaim("a", Reason.IDLE),)
    assert decide(world(idle_kernel("a", **facts)), POLICY, {}) == (Keep("a", reason),)


@pytest.mark.parametrize(
    "facts",
    [
        {"pinned_until": LATER},
        {"phase_since": NOW},
        {"retry_at": LATER},
        {"footprint": {"g0": 1 << 20}},
        {"last_active_at": NOW},
    ],
)
def test_a_persons_wish_goes_over_what_protects_their_own_comfort(facts):
    """Pin, cooldown, rest, size and recent use give way to whoever asks for the reclaim."""
    asked = idle_kernel("a", reclaim_wanted_at=NOW, **facts)
    assert decide(world(asked), POLICY, {}) == (Reclaim("a", Reason.REQUESTED),)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"running_since": NOW}, Reason.RUNNING),
        ({"background_work": ("thread",)}, Reason.BACKGROUND_WORK),
        ({"gpu_busy": None}, Reason.GPU_UNKNOWN),
        ({"mechanism": None}, Reason.UNSUPPORTED),
        ({"footprint": {"g0": 300 * GIB}}, Reason.HOST_MEMORY),
    ],
)
def test_a_persons_wish_never_goes_over_work_or_safety(facts, reason):
    """Even when asked for, nothing at work, unknown, unmovable or too large for host memory is reclaimed."""
    asked = idle_kernel("a", reclaim_wanted_at=NOW, **facts)
    assert decide(world(asked), POLICY, {}) == (Keep("a", reason),)


def test_host_memory_is_shared_by_all_that_is_chosen():
    """Two kernels that fit host memory one by one but not together: the longer idle goes, the other stays."""
    pair = (idle_kernel("a", minutes=30, gib=4), idle_kernel("b", minutes=60, gib=4))
    assert decide(world(*pair, host=8), POLICY, {}) == (
        Keep("a", Reason.HOST_MEMORY),
        Reclaim("b", Reason.IDLE),
    )
    moving = (replace(pair[0], phase=Phase.RECLAIMING), pair[1])
    assert decide(world(*moving, host=8), POLICY, {})[1] == Keep("b", Reason.HOST_MEMORY)
    assert decide(world(*pair, host=None), POLICY, {}) == tuple(Keep(n, Reason.HOST_MEMORY) for n in "ab")


def test_disk_is_taken_when_host_memory_is_used_up():
    """Memory comes first; what is spilled stays within the limit, with what lies on disk already and what is coming."""
    policy = replace(POLICY, spill_limit_bytes=4 * GIB, max_in_flight=9)
    pair = [idle_kernel(name, gib=3) for name in "ab"]
    assert decide(world(*pair, host=6), policy, {}) == (
        Reclaim("a", Reason.IDLE),
        Reclaim("b", Reason.IDLE, spill_bytes=2 * GIB),
    )
    full = replace(pair[0], kernel_id="c", phase=Phase.RECLAIMED, spilled_bytes=3 * GIB)
    assert decide(world(*pair, full, host=6), policy, {})[:2] == (
        Reclaim("a", Reason.IDLE),
        Keep("b", Reason.HOST_MEMORY),
    )
    moving = replace(pair[0], phase=Phase.RECLAIMING)
    assert decide(world(moving, pair[1], host=6), policy, {})[1] == Reclaim(
        "b", Reason.IDLE, spill_bytes=2 * GIB
    )


def test_a_kept_host_buffer_is_not_taken_twice():
    """A kernel that still holds the buffer of its last reclaim needs only what is missing of host memory."""
    returning = idle_kernel("a", gib=4, host_bytes=3 * GIB)
    assert decide(world(returning, host=4), POLICY, {}) == (Reclaim("a", Reason.IDLE),)
    assert decide(world(replace(returning, host_bytes=GIB), host=4), POLICY, {}) == (
        Keep("a", Reason.HOST_MEMORY),
    )


def test_turns_go_to_whoever_was_used_longest_ago():
    """With one reclaim at a time, the least recently used kernel goes and the others come after it."""
    kernels = [idle_kernel(name, minutes=minutes) for name, minutes in (("a", 30), ("b", 90), ("c", 60))]
    found = decide(world(*kernels), replace(POLICY, max_in_flight=1), {})
    assert found == (Keep("a", Reason.TURN), Reclaim("b", Reason.IDLE), Keep("c", Reason.TURN))


def test_pressure_takes_from_the_idle_only_after_its_grace():
    """A GPU short of headroom is relieved once it has been short for the whole grace, by the fewest that do."""
    policy = replace(POLICY, headroom_bytes=4 * GIB)
    kernels = (idle_kernel("a", minutes=5, gib=4), idle_kernel("b", minutes=3, gib=4))
    seen = world(*kernels, gpus=(gpu(free=1),))
    fresh = track_pressure(seen, policy, {})
    assert fresh == {"g0": NOW}
    assert decide(seen, policy, fresh) == tuple(Keep(n, Reason.RECENTLY_ACTIVE) for n in "ab")
    lasting = track_pressure(seen, policy, {"g0": NOW - timedelta(seconds=30), "gone": NOW})
    assert lasting == {"g0": NOW - timedelta(seconds=30)}
    assert decide(seen, policy, lasting) == (Reclaim("a", Reason.PRESSURE), Keep("b", Reason.RECENTLY_ACTIVE))


def test_pressure_is_forgotten_when_it_ends_or_cannot_be_seen():
    """A GPU with headroom again, or one that cannot be observed, must be short for the whole grace anew."""
    policy = replace(POLICY, headroom_bytes=4 * GIB)
    before = {"g0": NOW - timedelta(hours=1)}
    assert track_pressure(world(gpus=(gpu(free=4),)), policy, before) == {}
    assert track_pressure(world(gpus=None), policy, before) == {}
    assert track_pressure(world(gpus=(gpu(free=0),)), POLICY, before) == {}


def test_room_is_made_by_kernels_idle_long_enough_only():
    """For a waiting restore the least recently used kernel goes; one used a minute ago is never taken."""
    waiting = away("w", gib=6)
    old, young = idle_kernel("old", minutes=3, gib=8), idle_kernel("young", minutes=1, gib=8)
    found = decide(world(waiting, old, young, gpus=(gpu(free=0),)), POLICY, {})
    assert found == (
        Wait("w", Reason.NO_ROOM, 1, {"g0": 6 * GIB}),
        Reclaim("old", Reason.ADMISSION),
        Keep("young", Reason.RECENTLY_ACTIVE),
    )
    alone = decide(world(waiting, young, gpus=(gpu(free=0),)), POLICY, {})
    assert alone[1] == Keep("young", Reason.RECENTLY_ACTIVE)


def test_what_reclaims_under_way_will_free_is_counted():
    """While enough is being freed already nobody else is taken for the same waiting restore."""
    waiting, moving = away("w", gib=6), idle_kernel("m", gib=8, phase=Phase.RECLAIMING)
    spare = idle_kernel("s", minutes=5, gib=8)
    found = decide(world(waiting, moving, spare, gpus=(gpu(free=0),)), POLICY, {})
    assert found[2] == Keep("s", Reason.RECENTLY_ACTIVE)


def test_a_restore_under_way_keeps_its_room():
    """What it has yet to take is not free for another; what it has taken shows in the measured figure."""
    arriving = away("r", gib=8, phase=Phase.RESTORING)
    waiting = away("w", gib=8)
    assert decide(world(arriving, waiting, gpus=(gpu(free=12),)), POLICY, {})[1].reason is Reason.NO_ROOM
    almost = replace(arriving, moved_bytes=6 * GIB, move_total_bytes=8 * GIB)
    assert decide(world(almost, waiting, gpus=(gpu(free=10),)), POLICY, {})[1] == Restore(
        "w", Reason.USER_CODE
    )


def test_a_kernel_on_two_gpus_waits_for_both():
    """With room on one of its two GPUs a kernel waits, and room is made on the other alone."""
    waiting = away("w", footprint={"g0": 4 * GIB, "g1": 4 * GIB})
    on_g0, on_g1 = idle_kernel("x", minutes=5), idle_kernel("y", minutes=5, footprint={"g1": 4 * GIB})
    gpus = (gpu("g0", free=8), gpu("g1", free=1))
    found = decide(world(waiting, on_g0, on_g1, gpus=gpus), POLICY, {})
    assert found == (
        Wait("w", Reason.NO_ROOM, 1, {"g1": 3 * GIB}),
        Keep("x", Reason.RECENTLY_ACTIVE),
        Reclaim("y", Reason.ADMISSION),
    )


def test_nobody_takes_the_bytes_the_head_waits_for():
    """With room coming for the head, a small restore waits though it would fit now, and goes ahead on another GPU."""
    head, small = away("head", gib=12, waited=5), away("small", gib=2, waited=1)
    leaving = idle_kernel("leaving", gib=4, phase=Phase.RECLAIMING)
    elsewhere = away("else", waited=1, footprint={"g1": 2 * GIB})
    gpus = (gpu("g0", free=8), gpu("g1", free=8))
    found = decide(world(small, elsewhere, head, leaving, gpus=gpus), POLICY, {})
    assert found[:3] == (
        Wait("small", Reason.QUEUED, 2, {"g0": 6 * GIB}),
        Restore("else", Reason.USER_CODE),
        Wait("head", Reason.NO_ROOM, 1, {"g0": 4 * GIB}),
    )


def test_one_that_can_never_fit_blocks_nobody():
    """A kernel larger than its GPU waits, and those behind it are served as if it were not there."""
    giant, small = away("giant", gib=20, waited=9), away("small", gib=8)
    idle = idle_kernel("i", minutes=5, gib=8)
    found = decide(world(giant, small, idle, gpus=(gpu(free=8),)), POLICY, {})
    assert found == (
        Wait("giant", Reason.NO_ROOM, 1, {"g0": 20 * GIB}),
        Restore("small", Reason.USER_CODE),
        Keep("i", Reason.RECENTLY_ACTIVE),
    )


def test_where_no_room_can_be_made_elsewhere_it_still_is():
    """One that waits in vain on its GPU does not keep room from being made for another on another GPU."""
    vain, other = away("vain", gib=12, waited=5), away("other", footprint={"g1": 4 * GIB})
    idle = idle_kernel("i", minutes=5, footprint={"g1": 4 * GIB})
    found = decide(world(vain, other, idle, gpus=(gpu("g0", free=1), gpu("g1", free=1))), POLICY, {})
    assert found[2] == Reclaim("i", Reason.ADMISSION)


def test_equals_are_told_apart_by_name():
    """Two kernels alike in everything take their turns in the same order however they are listed."""
    a, b = idle_kernel("a"), idle_kernel("b")
    policy = replace(POLICY, max_in_flight=1)
    assert decide(world(a, b), policy, {}) == (Reclaim("a", Reason.IDLE), Keep("b", Reason.TURN))
    assert decide(world(b, a), policy, {}) == (Keep("b", Reason.TURN), Reclaim("a", Reason.IDLE))


def test_user_code_goes_before_wishes():
    """A cell that waits comes before a person's earlier wish to have a kernel restored."""
    wish = away("wish", gib=10, waited=30, waiting=0)
    code = away("code", gib=10, waited=1)
    found = decide(world(wish, code), POLICY, {})
    assert found == (Wait("wish", Reason.NO_ROOM, 1, {"g0": 4 * GIB}), Restore("code", Reason.USER_CODE))
    assert decide(world(wish), POLICY, {}) == (Restore("wish", Reason.REQUESTED),)


def test_a_gpu_that_cannot_be_seen_stops_wishes_but_no_cell():
    """Blind, nothing is reclaimed and wishes wait, while user code is let through: out of memory loses nothing."""
    kernels = (idle_kernel("a"), away("code"), away("wish", waiting=0))
    expected = (
        Keep("a", Reason.GPU_UNKNOWN),
        Restore("code", Reason.USER_CODE),
        Wait("wish", Reason.GPU_UNKNOWN, 1),
    )
    assert decide(world(*kernels, gpus=None), POLICY, {}) == expected


def test_a_failed_restore_rests_and_keeps_its_place():
    """Until its rest is over it is not tried again, and room goes on being made and kept for it."""
    resting = away("r", gib=8, waited=5, retry_at=LATER)
    later, idle = away("l", gib=4), idle_kernel("i", minutes=5, gib=4)
    found = decide(world(resting, later, idle, gpus=(gpu(free=4),)), POLICY, {})
    assert found == (
        Wait("r", Reason.RETRY_LATER, 1, {"g0": 4 * GIB}),
        Wait("l", Reason.QUEUED, 2, {"g0": 8 * GIB}),
        Reclaim("i", Reason.ADMISSION),
    )


def test_restores_are_not_held_back_by_reclaims():
    """With every turn taken by reclaims, a restore that fits goes ahead."""
    moving = idle_kernel("m", phase=Phase.RECLAIMING)
    found = decide(world(moving, away("w")), replace(POLICY, max_in_flight=1), {})
    assert found[1] == Restore("w", Reason.USER_CODE)


def test_restores_waiting_elsewhere_on_the_machine_are_pressure():
    """Bytes that another server's restore waits for are freed, as far as they can be, without any grace."""
    idle = idle_kernel("i", minutes=5, gib=4)
    seen = world(idle, gpus=(gpu(free=2),), outside_pressure={"g0": 6 * GIB})
    assert decide(seen, POLICY, {}) == (Reclaim("i", Reason.ADMISSION),)
    too_much = replace(seen, outside_pressure={"g0": 7 * GIB})  # a third server may have the rest
    assert decide(too_much, POLICY, {}) == (Reclaim("i", Reason.ADMISSION),)
    enough = replace(seen, outside_pressure={"g0": 2 * GIB})
    assert decide(enough, POLICY, {}) == (Keep("i", Reason.RECENTLY_ACTIVE),)


def test_off_reclaims_nothing_and_restores_everything():
    """Switched off, idle kernels and wishes to reclaim stay as they are, and waiting code gets its bytes."""
    kernels = (idle_kernel("a"), idle_kernel("b", reclaim_wanted_at=NOW), away("w"))
    expected = (
        Keep("a", Reason.SWITCHED_OFF),
        Keep("b", Reason.SWITCHED_OFF),
        Restore("w", Reason.USER_CODE),
    )
    assert decide(world(*kernels), replace(POLICY, mode="off"), {}) == expected


@pytest.mark.parametrize(
    ("holding", "due"),
    [
        (idle_kernel(minutes=5), NOW + 15 * MINUTE),
        (idle_kernel(minutes=5, phase_since=NOW - 2 * MINUTE), NOW + 18 * MINUTE),
        (idle_kernel(minutes=5, pinned_until=LATER), LATER),
        (idle_kernel(minutes=5, retry_at=LATER), LATER),
        (idle_kernel(minutes=30), NOW - 10 * MINUTE),
        (idle_kernel(running_since=NOW), None),
        (idle_kernel(last_active_at=None), None),
        (idle_kernel(background_work=None), None),
        (idle_kernel(footprint={"g0": 1}), None),
        (idle_kernel(managed=False), None),
        (away(), None),
    ],
)
def test_when_a_kernel_will_be_reclaimed(holding: Holding, due):
    """The announced instant is the one at which `decide()` first reclaims, or None where time alone does nothing."""
    assert reclaim_due_at(holding, POLICY) == due
    if due is not None and due > NOW:
        before, at = (replace(world(holding), taken_at=t) for t in (due - timedelta(seconds=1), due))
        assert isinstance(decide(before, POLICY, {})[0], Keep)
        assert decide(at, POLICY, {}) == (Reclaim("a", Reason.IDLE),)


def test_a_warning_goes_before_the_reclaim_for_idleness():
    """Told `warn_before` ahead, a kernel is reclaimed when that has passed; a use or a pin ends the warning."""
    policy = replace(POLICY, warn_before=MINUTE)
    assert decide(world(idle_kernel(minutes=18.9)), policy, {}) == (Keep("a", Reason.RECENTLY_ACTIVE),)
    assert decide(world(idle_kernel(minutes=19)), policy, {}) == (Warn("a", Reason.IDLE),)
    told = idle_kernel(minutes=30, warned_at=NOW - timedelta(seconds=59))
    assert decide(world(told), policy, {}) == (Keep("a", Reason.RECENTLY_ACTIVE),)
    told = replace(told, warned_at=NOW - MINUTE)
    assert decide(world(told), policy, {}) == (Reclaim("a", Reason.IDLE),)
    used_since = replace(told, last_active_at=NOW - 50 * MINUTE, phase_since=NOW - 30 * MINUTE)
    assert decide(world(replace(used_since, warned_at=NOW - 40 * MINUTE)), policy, {}) == (
        Warn("a", Reason.IDLE),
    )
    pinned_since = replace(told, warned_at=NOW - 9 * MINUTE, pinned_until=NOW - MINUTE)
    assert decide(world(pinned_since), policy, {}) == (Warn("a", Reason.IDLE),)


def test_only_a_reclaim_for_idleness_is_warned_of():
    """Whoever waits for room does not wait for a warning, nor does a person who asks; a dry run alarms nobody."""
    policy = replace(POLICY, warn_before=MINUTE)
    waiting = away("w", gib=6)
    found = decide(world(waiting, idle_kernel(gib=8), gpus=(gpu(free=0),)), policy, {})
    assert found[1] == Reclaim("a", Reason.ADMISSION)
    assert decide(world(idle_kernel(reclaim_wanted_at=NOW)), policy, {}) == (Reclaim("a", Reason.REQUESTED),)
    assert decide(world(idle_kernel()), replace(policy, mode="dry_run"), {}) == (Reclaim("a", Reason.IDLE),)


@pytest.mark.parametrize(
    ("minutes", "warned", "due"),
    [(5, None, 15), (60, NOW, 1), (60, NOW - MINUTE / 2, 0.5), (60, NOW - 2 * MINUTE, -1)],
)
def test_the_announced_instant_counts_the_warning(minutes, warned, due):
    """What the warning announces is when the reclaim comes, at most half of `idle_after` after it."""
    policy = replace(POLICY, warn_before=MINUTE)
    assert reclaim_due_at(idle_kernel(minutes=minutes, warned_at=warned), policy) == NOW + due * MINUTE
    hasty = replace(policy, idle_after=timedelta(seconds=10))
    assert reclaim_due_at(idle_kernel(minutes=0), hasty) == NOW + timedelta(seconds=10)


def test_the_lower_priority_gives_way_first():
    """Room is made by the kernel of the lowest priority, though another was used longer ago."""
    waiting = away("w", gib=4)
    old, low = idle_kernel("old", minutes=15), idle_kernel("low", minutes=3, priority=-1)
    found = decide(world(waiting, old, low, gpus=(gpu(free=0),)), POLICY, {})
    assert found[1:] == (Keep("old", Reason.RECENTLY_ACTIVE), Reclaim("low", Reason.ADMISSION))


def running(kernel_id: str, gib: int, wants: int, **facts: object) -> Holding:
    """A kernel at work whose code waits to allocate so many GiB more."""
    return idle_kernel(
        kernel_id,
        gib=gib,
        running_since=NOW - MINUTE,
        room_wanted={"g0": wants * GIB},
        room_wanted_at=NOW,
        **facts,
    )


def test_running_code_gets_its_room_before_whoever_waits_at_the_gate():
    """It cannot be moved, so an earlier restore comes sooner by its going ahead; idle kernels make the room."""
    waiting, grows = away("w", gib=8, waited=9), running("r", 8, 4)
    idle = idle_kernel("i", minutes=5, gib=4)
    found = decide(world(waiting, grows, idle, gpus=(gpu(free=0),)), POLICY, {})
    assert found == (
        Wait("w", Reason.NO_ROOM, 2, {"g0": 12 * GIB}),
        Wait("r", Reason.NO_ROOM, 1, {"g0": 4 * GIB}),
        Reclaim("i", Reason.ADMISSION),
    )
    found = decide(world(waiting, grows, gpus=(gpu(free=4),)), POLICY, {})
    assert found == (Wait("w", Reason.NO_ROOM, 1, {"g0": 8 * GIB}), Admit("r", Reason.ROOM))


def test_running_code_that_cannot_be_helped_holds_up_nobody():
    """Where nobody can make its room, or it asks for more than there is, others are served meanwhile."""
    for wants in (8, 14):
        found = decide(world(running("r", 4, wants), away("w", gib=4), gpus=(gpu(free=4),)), POLICY, {})
        assert found == (
            Wait("r", Reason.NO_ROOM, 1, {"g0": wants * GIB}),
            Restore("w", Reason.USER_CODE),
        )


def test_what_was_admitted_keeps_its_room_until_it_has_taken_it():
    """Between the word and the allocation nobody else is given those bytes, and it is not told again."""
    told = running("r", 8, 4, admitted_at=NOW)
    found = decide(world(told, away("w", gib=4), gpus=(gpu(free=6),)), POLICY, {})
    assert found == (Keep("r", Reason.IN_FLIGHT), Wait("w", Reason.NO_ROOM, 1, {"g0": 2 * GIB}))


def test_a_small_restore_overtakes_a_stuck_one_a_bounded_number_of_times():
    """While nobody can be reclaimed for the head the smallest that fits goes first, until the head has had enough."""
    head, middle, small = away("head", gib=12, waited=5), away("m", gib=3, waited=4), away("s", gib=2)
    seen = world(head, middle, small, idle_kernel("busy", gib=12, running_since=NOW), gpus=(gpu(free=4),))
    found = decide(seen, POLICY, {})
    assert found[:3] == (
        Wait("head", Reason.NO_ROOM, 1, {"g0": 10 * GIB}),
        Wait("m", Reason.NO_ROOM, 2, {"g0": 13 * GIB}),
        Restore("s", Reason.USER_CODE, passed=("head", "m")),
    )
    assert track_overtaken(found, {"head": 1, "gone": 2}) == {"head": 2, "m": 1}
    fed_up = decide(seen, POLICY, {}, {"head": OVERTAKEN_AT_MOST})
    assert fed_up[2] == Wait("s", Reason.QUEUED, 3, {"g0": 13 * GIB})
    assert track_overtaken(fed_up, {"head": 3}) == {"head": 3}
    assert track_overtaken((Restore("head", Reason.USER_CODE),), {"head": 3}) == {"head": 3}
    assert track_overtaken((Keep("head", Reason.RUNNING),), {"head": 3}) == {}


def test_running_places_go_in_order_of_arrival():
    """With one place a GPU, a cell waits though its data is there, and the first that came gets the next place."""
    policy = replace(POLICY, max_running_per_gpu=1)
    first, second = (
        idle_kernel(name, place_wanted_at=NOW - minutes * MINUTE, gib=2)
        for name, minutes in (("b", 3), ("c", 2))
    )
    back = away("w", gib=2, waited=5)
    busy = idle_kernel("a", gib=2, running_since=NOW)
    found = decide(world(busy, first, second, back), policy, {})
    assert found == (
        Keep("a", Reason.RUNNING),
        Wait("b", Reason.NO_PLACE, 2),
        Wait("c", Reason.NO_PLACE, 3),
        Wait("w", Reason.NO_PLACE, 1),
    )
    done = decide(world(replace(busy, running_since=None), first, second, back), policy, {})
    assert done[1:] == (
        Wait("b", Reason.NO_PLACE, 1),
        Wait("c", Reason.NO_PLACE, 2),
        Restore("w", Reason.USER_CODE),
    )
    came_back = replace(busy, phase=Phase.RESTORING, waiting=0)
    assert decide(world(came_back, first), policy, {})[1] == Wait("b", Reason.NO_PLACE, 1), "it runs already"
    subshell = replace(busy, place_wanted_at=NOW)
    assert decide(world(subshell), policy, {}) == (Admit("a", Reason.PLACE),), "it has its place already"
    assert decide(world(busy, first, second), POLICY, {})[1:] == (
        Admit("b", Reason.PLACE),
        Admit("c", Reason.PLACE),
    )


def test_one_that_lacks_room_keeps_no_place_from_the_code_that_makes_its_room():
    """The head needs memory that a kernel holds whose cell waits for a place: the cell runs, and nobody is stuck."""
    policy = replace(POLICY, max_running_per_gpu=1)
    head = away("head", gib=12, waited=9)
    holds_it = idle_kernel("h", gib=12, place_wanted_at=NOW)
    found = decide(world(head, holds_it, gpus=(gpu(free=4),)), policy, {})
    assert found == (Wait("head", Reason.NO_ROOM, 1, {"g0": 8 * GIB}), Admit("h", Reason.PLACE))


def test_an_early_restore_takes_only_what_nobody_wants():
    """There must be room for it beside the headroom and whoever waits, here or elsewhere; nobody is moved for it."""
    wish = away("p", gib=4, waiting=0, restore_wanted_at=None, prefetch_wanted_at=NOW)
    early = Restore("p", Reason.PREFETCH)
    assert decide(world(wish, gpus=(gpu(free=4),)), POLICY, {}) == (early,)
    refused = Keep("p", Reason.NO_SPARE_ROOM)
    idle = idle_kernel("i", minutes=5, gib=8)
    assert decide(world(wish, idle, gpus=(gpu(free=3),)), POLICY, {}) == (
        refused,
        Keep("i", Reason.RECENTLY_ACTIVE),
    )
    assert decide(world(wish, gpus=None), POLICY, {}) == (refused,)
    assert decide(world(wish, gpus=(gpu(free=5),)), replace(POLICY, headroom_bytes=2 * GIB), {}) == (refused,)
    assert decide(world(wish, outside_pressure={"g0": GIB}), POLICY, {}) == (refused,)
    assert decide(world(wish, away("w", gib=14), gpus=(gpu(free=8),)), POLICY, {})[0] == refused
    assert decide(world(replace(wish, retry_at=LATER)), POLICY, {}) == (Keep("p", Reason.RETRY_LATER),)


def test_what_came_back_early_and_unused_gives_way_at_once():
    """It has no cooldown and counts as idle since its last cell, so nobody waits for it; alone it stays."""
    back = idle_kernel("p", minutes=60, phase_since=NOW, restored_early=True)
    assert decide(world(back), POLICY, {}) == (Keep("p", Reason.RECENTLY_ACTIVE),)
    found = decide(world(back, away("w", gib=4), gpus=(gpu(free=0),)), POLICY, {})
    assert found[0] == Reclaim("p", Reason.ADMISSION)


def test_where_moving_takes_too_much_time_whoever_came_back_stays():
    """A longer residence on its GPU protects a kernel past its cooldown, and no longer."""
    stay = {"g0": 5 * MINUTE}
    waiting = away("w", gib=4)
    for minutes, decision in ((4, Keep("i", Reason.THRASHING)), (5, Reclaim("i", Reason.ADMISSION))):
        back = idle_kernel("i", minutes=30, phase_since=NOW - minutes * MINUTE)
        found = decide(world(waiting, back, gpus=(gpu(free=0),)), POLICY, {}, {}, stay)
        assert found[1] == decision
    late = idle_kernel("i", phase_since=NOW - MINUTE)
    assert reclaim_due_at(late, replace(POLICY, idle_after=MINUTE), stay) == NOW + 4 * MINUTE
