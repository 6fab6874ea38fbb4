"""Rows fold into episodes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import GIB, NOW

from jupyter_gpu_reclaim.core.episodes import Episode, EpisodeOutcome, fold
from jupyter_gpu_reclaim.core.model import Event, Phase, Reason, Transition
from jupyter_gpu_reclaim.core.phase import advance

SECOND = timedelta(seconds=1)


def rows(*events: Event, episode: str = "e1", **facts: object) -> list[Transition]:
    """Rows of one episode, a second apart, from a resident kernel on."""
    phase, made = Phase.RESIDENT, []
    for i, event in enumerate(events):
        phase = advance(phase, event)
        made.append(
            Transition(
                id=f"{episode}-{i}",
                at=NOW + i * SECOND,
                kernel_id="k",
                event=event,
                phase=phase,
                episode_id=episode,
                **facts,
            )
        )
    return made


WHOLE = (Event.RECLAIM_STARTED, Event.RECLAIM_DONE, Event.RESTORE_STARTED, Event.RESTORE_DONE)


def test_a_whole_episode():
    """From the reclaim to the restore: bytes, times, reasons and who asked."""
    started, done, again, back = rows(*WHOLE)
    started = replace(
        started, reason=Reason.REQUESTED, actor="ada", footprint={"g0": 3 * GIB}, mechanism="torch_offload"
    )
    done = replace(
        done, moved_bytes=2 * GIB, freed_bytes={"g0": 3 * GIB}, took=2 * SECOND, unmovable={"graph": 5}
    )
    again, back = replace(again, reason=Reason.USER_CODE), replace(back, took=SECOND)
    assert fold([back, done, started, again, done]) == (
        Episode(
            id="e1",
            kernel_id="k",
            outcome=EpisodeOutcome.RESTORED,
            started_at=NOW,
            reason=Reason.REQUESTED,
            restore_reason=Reason.USER_CODE,
            actor="ada",
            mechanism="torch_offload",
            footprint={"g0": 3 * GIB},
            moved_bytes=2 * GIB,
            freed_bytes={"g0": 3 * GIB},
            unmovable={"graph": 5},
            reclaimed_at=NOW + SECOND,
            reclaim_took=2 * SECOND,
            restored_at=NOW + 3 * SECOND,
            restore_took=SECOND,
            ended_at=NOW + 3 * SECOND,
        ),
    )
    assert fold([started, done, again, back])[0].reclaimed_for == 2 * SECOND


@pytest.mark.parametrize(
    ("events", "outcome", "ended"),
    [
        (WHOLE[:1], EpisodeOutcome.RECLAIMING, False),
        (WHOLE[:2], EpisodeOutcome.RECLAIMED, False),
        (WHOLE[:3], EpisodeOutcome.RESTORING, False),
        ((WHOLE[0], Event.RECLAIM_REFUSED), EpisodeOutcome.REFUSED, True),
        ((WHOLE[0], Event.RECLAIM_FAILED), EpisodeOutcome.FAILED, True),
        ((WHOLE[0], Event.RECLAIM_FAILED, Event.RECLAIM_DONE), EpisodeOutcome.RECLAIMED, False),
        ((*WHOLE[:3], Event.RESTORE_FAILED), EpisodeOutcome.RECLAIMED, False),
        ((*WHOLE[:3], Event.RESTORE_REFUSED), EpisodeOutcome.RECLAIMED, False),
        ((*WHOLE[:2], Event.WAIT_ENDED), EpisodeOutcome.RECLAIMED, False),
        ((*WHOLE[:2], Event.KERNEL_GONE), EpisodeOutcome.KERNEL_GONE, True),
        ((*WHOLE[:3], Event.LOST), EpisodeOutcome.LOST, True),
    ],
)
def test_how_an_episode_stands(events, outcome, ended):
    """An open episode says where its bytes are, an ended one how it ended; only what ended has an end."""
    (episode,) = fold(rows(*events))
    assert episode.outcome is outcome
    assert (episode.ended_at is not None) is ended


def test_failed_restores_are_counted():
    """Each attempt that failed is one; the episode still ends restored."""
    retries = (Event.RESTORE_STARTED, Event.RESTORE_FAILED) * 3
    (episode,) = fold(rows(*WHOLE[:2], *retries, *WHOLE[2:]))
    assert episode.restore_failures == 3
    assert episode.outcome is EpisodeOutcome.RESTORED


def test_a_restore_by_the_kernel_itself_says_so():
    """It has no start, and its reason is kept."""
    started, done, back = rows(WHOLE[0], WHOLE[1], Event.RESTORE_DONE)
    (episode,) = fold([started, done, replace(back, reason=Reason.SELF_RESTORED)])
    assert episode.restore_reason is Reason.SELF_RESTORED
    assert episode.outcome is EpisodeOutcome.RESTORED


@given(st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(rnd):
    """The fold of several episodes does not depend on the order of rows; pins belong to none."""
    pin = Transition(id="p", at=NOW, kernel_id="k", event=Event.PINNED, phase=Phase.RESIDENT)
    mixed = [pin, *rows(*WHOLE), *rows(*WHOLE[:2], episode="e2"), *rows(WHOLE[0], episode="e3")]
    expected = fold(mixed)
    rnd.shuffle(mixed)
    assert fold(mixed) == expected
    assert [episode.id for episode in expected] == ["e1", "e2", "e3"]
