"""Whom the broker asks for room, and for how much."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from fleet_words import GIB, NOON, kernel, server, status

from jupyter_gpu_reclaim.core.brokering import asked
from jupyter_gpu_reclaim.core.wire import WireError


def test_whoever_has_been_idle_longest_is_asked_for_what_is_missing() -> None:
    """Only as many idle kernels as make the room are meant; their servers are to see just that much free."""
    fleet = [
        server("ada", status(), waiting_gib=6),
        server("bob", status(kernel("b1", 4, idle_minutes=60), kernel("b2", 3, idle_minutes=5))),
        server("eve", status(kernel("e1", 4, idle_minutes=50), kernel("e2", 1, idle_minutes=None))),
    ]
    pressure, meant = asked(fleet, NOON)
    assert pressure == {("bob", ""): {"GPU-1": 4 * GIB}, ("eve", ""): {"GPU-1": 4 * GIB}}
    assert meant == {(("bob", ""), "b1"), (("eve", ""), "e1")}


def test_nobody_is_asked_where_there_is_room_or_it_comes() -> None:
    """Free memory and kernels that are being reclaimed count before anybody else gives way."""
    idle = server("bob", status(kernel("b1", 4), used_gib=10))
    assert asked([server("ada", status(used_gib=10), waiting_gib=6), idle], NOON) == ({}, set())
    moving = server("eve", status(kernel("e1", 6, phase="reclaiming")))
    assert asked(
        [server("ada", status(), waiting_gib=6), server("bob", status(kernel("b1", 4))), moving], NOON
    ) == (
        {},
        set(),
    )


def test_a_rule_says_who_gives_way_first() -> None:
    """The server of lower priority is asked before one that has been idle for longer."""
    low = replace(server("bob", status(kernel("b1", 4, idle_minutes=5))), priority=-1)
    fleet = [
        server("ada", status(), waiting_gib=4),
        server("eve", status(kernel("e1", 4, idle_minutes=90))),
        low,
    ]
    assert asked(fleet, NOON)[0] == {("bob", ""): {"GPU-1": 4 * GIB}}


def test_kernels_of_a_kernelspec_have_their_own_priority_and_patience() -> None:
    """The kernel of lower priority is meant first, and one whose rule asks for more idle time not yet."""
    late = kernel("b1", 4, idle_minutes=5, kernel_name="late", pressure_idle_after_seconds=600.0)
    fleet = [
        server("ada", status(), waiting_gib=4),
        server("bob", status(kernel("b2", 4, idle_minutes=50), late)),
        replace(
            server("eve", status(kernel("e1", 4, idle_minutes=5, kernel_name="first"))),
            kernelspec_priorities={"first": -1},
        ),
    ]
    assert asked(fleet, NOON)[1] == {(("eve", ""), "e1")}
    assert asked(fleet[:2], NOON)[1] == {(("bob", ""), "b2")}
    only = [fleet[0], server("bob", status(late))]
    assert asked(only, NOON)[1] == set()
    assert asked(only, NOON + timedelta(minutes=6))[1] == {(("bob", ""), "b1")}


@pytest.mark.parametrize(
    "said",
    [
        status(kernel("b1", 4, idle_minutes=None)),
        status(kernel("b1", 4, idle_minutes=1)),
        status(kernel("b1", 4, decision={"act": "keep", "reason": "pinned"})),
        status(kernel("b1", 4, decision={"act": "keep", "reason": "background_work"})),
        status(kernel("b1", 4, phase="reclaimed")),
        status(kernel("b1", 4, last_active_at=None)),
        status(kernel("b1", 4), policy={"mode": "dry_run", "pressure_idle_after_seconds": 0.0}),
    ],
)
def test_no_kernel_in_use_is_meant(said: dict) -> None:
    """Kernels at work, used lately, pinned, busy behind the scenes, or of a server that reclaims nothing stay alone."""
    assert asked([server("ada", status(), waiting_gib=4), server("bob", said)], NOON) == ({}, set())


def test_a_server_is_not_asked_for_its_own_wait() -> None:
    """A server that waits makes its own room itself; two that wait may give to each other."""
    own = server("ada", status(kernel("a1", 4)), waiting_gib=4)
    assert asked([own], NOON) == ({}, set())
    both = [own, server("bob", status(), waiting_gib=2)]
    assert asked(both, NOON)[0] == {("ada", ""): {"GPU-1": 4 * GIB}}


def test_who_did_not_give_way_is_passed_over() -> None:
    """A kernel that was asked for in vain is left out, and the next in line is asked instead."""
    fleet = [
        server("ada", status(), waiting_gib=4),
        server("bob", status(kernel("b1", 4, idle_minutes=60))),
        server("eve", status(kernel("e1", 4, idle_minutes=50))),
    ]
    assert asked(fleet, NOON, {(("bob", ""), "b1")})[0] == {("eve", ""): {"GPU-1": 4 * GIB}}


def test_no_claim_is_greater_than_the_gpu() -> None:
    """A server that claims to wait for more than there is presses for no more than the GPU has."""
    fleet = [
        server("ada", status(), waiting_gib=1000),
        server("bob", status(*(kernel(f"b{n}", 4, idle_minutes=10 + n) for n in range(9)))),
    ]
    assert asked(fleet, NOON)[0] == {("bob", ""): {"GPU-1": 16 * GIB}}


@pytest.mark.parametrize(
    "said",
    [
        status(kernel("k", -1)),
        status(kernel("k", 1 << 30)),
        status(kernel("k" * 5000, 1)),
        status(*(kernel(f"k{n}", 1) for n in range(501))),
        status(used_gib=-1),
        status(policy={"mode": "on"}),
        {},
        [],
        None,
    ],
)
def test_what_no_server_of_ours_says_is_refused(said: object) -> None:
    """Numbers and lengths out of bounds, and other shapes, are refused as a whole."""
    with pytest.raises(WireError):
        server("ada", said)


def test_idle_time_runs_on_while_nothing_is_pushed() -> None:
    """A kernel that is not idle for long enough yet is asked once it is, without its server saying anything new."""
    fleet = [server("ada", status(), waiting_gib=4), server("bob", status(kernel("b1", 4, idle_minutes=1.9)))]
    assert asked(fleet, NOON)[0] == {}
    assert asked(fleet, NOON + timedelta(seconds=6))[0] == {("bob", ""): {"GPU-1": 4 * GIB}}
