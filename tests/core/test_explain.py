"""A sentence for every reason, with the figures a person asks for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import GIB, MINUTE, NOW, away, histories, idle_kernel, policies, snapshots

from jupyter_gpu_reclaim.core.explain import SENTENCES, explain, human_bytes, human_span
from jupyter_gpu_reclaim.core.model import Keep, Phase, Policy, Reason, Reclaim, Restore, Wait
from jupyter_gpu_reclaim.core.policy import decide

POLICY = Policy()


def test_no_reason_lacks_a_sentence():
    """Every reason has one, ending like a sentence, and no two reasons say the same."""
    assert set(SENTENCES) == set(Reason)
    assert len(set(SENTENCES.values())) == len(SENTENCES)
    assert all(text[0].isupper() and text.endswith(".") for text in SENTENCES.values())


@given(snapshots(), policies, histories)
def test_every_decision_can_be_explained(snapshot, policy, history):
    """Whatever is decided in whatever world, there is a whole sentence for it with no hole in it."""
    for holding, decision in zip(snapshot.holdings, decide(snapshot, policy, history), strict=True):
        text = explain(decision, holding, policy, snapshot.taken_at)
        assert text.endswith(".")
        assert "None" not in text
        assert "-" not in text.split(" ", 1)[0]


@pytest.mark.parametrize(
    ("decision", "holding", "text"),
    [
        (
            Keep("a", Reason.RECENTLY_ACTIVE),
            idle_kernel(minutes=6),
            "Idle for 6 min; reclaimed in 14 min unless used.",
        ),
        (
            Keep("a", Reason.RUNNING),
            idle_kernel(running_since=NOW - 125 * MINUTE),
            "Code has been running for 2 h 5 min.",
        ),
        (
            Keep("a", Reason.PINNED),
            idle_kernel(pinned_until=NOW + 60 * MINUTE),
            "Its user asked to keep it on the GPU for another 1 h.",
        ),
        (
            Keep("a", Reason.BACKGROUND_WORK),
            idle_kernel(background_work=("thread loader", "task train")),
            "Work goes on in the background: thread loader, task train.",
        ),
        (
            Keep("a", Reason.TOO_SMALL),
            idle_kernel(footprint={"g0": 3 << 20}),
            "It holds 3.0 MiB; less than 64.0 MiB is not worth moving.",
        ),
        (
            Keep("a", Reason.UNSUPPORTED),
            idle_kernel(mechanism=None, unsupported="JAX holds the GPU memory."),
            "JAX holds the GPU memory.",
        ),
        (
            Keep("a", Reason.ALREADY_RECLAIMED),
            away(waiting=0, host_bytes=2 * GIB),
            "Its 2.0 GiB are safe in host memory and come back when the next cell runs.",
        ),
        (
            Keep("a", Reason.IN_FLIGHT),
            idle_kernel(phase=Phase.RECLAIMING, moved_bytes=GIB, move_total_bytes=4 * GIB),
            "Moving to host memory: 1.0 GiB of 4.0 GiB.",
        ),
        (
            Keep("a", Reason.IN_FLIGHT),
            idle_kernel(phase=Phase.RESTORING),
            "Moving back to the GPU: started.",
        ),
        (
            Reclaim("a", Reason.IDLE),
            idle_kernel(gib=3),
            "It has been idle for long. Moving 3.0 GiB to host memory.",
        ),
        (
            Restore("a", Reason.USER_CODE),
            away(gib=3),
            "A cell needs its data on the GPU. Moving 3.0 GiB to the GPU.",
        ),
        (
            Wait("a", Reason.NO_ROOM, 2, {"g0": GIB}),
            away(gib=3),
            "Waiting for room on the GPU: 3.0 GiB needed, 1.0 GiB short. It is number 2 in the queue.",
        ),
    ],
)
def test_the_figures_that_matter_are_in_the_sentence(decision, holding, text):
    """The owner reads how long, how much, and what happens next."""
    assert explain(decision, holding, POLICY, NOW) == text


def test_a_dry_run_does_not_say_that_anything_moves():
    """What would be reclaimed is told as what would be, since nothing is."""
    text = explain(Reclaim("a", Reason.IDLE), idle_kernel(), replace(POLICY, mode="dry_run"), NOW)
    assert text == f"{SENTENCES[Reason.IDLE]} {SENTENCES[Reason.DRY_RUN]}"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (GIB - 1, "1.0 GiB"),
        (12 * GIB + GIB // 4, "12.2 GiB"),
    ],
)
def test_bytes_for_people(count, text):
    """Binary units, never "1024.0" of one unit."""
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_spans_for_people(seconds, text):
    """The largest unit or two, rounded down."""
    assert human_span(timedelta(seconds=seconds)) == text


@given(st.integers(0, 1 << 60))
def test_bytes_are_never_off_by_more_than_their_last_digit(count):
    """What is read back from the text is the figure within its rounding."""
    number, unit = human_bytes(count).split()
    scale = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert abs(float(number) * scale - count) <= 0.0501 * scale
