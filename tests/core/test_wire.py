"""The nouns go over the wire and come back equal."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import GIB, NOW, policies, snapshots

from jupyter_gpu_reclaim.core.model import (
    Admit,
    Decision,
    Done,
    Event,
    Failed,
    Holding,
    Keep,
    Outcome,
    Phase,
    Policy,
    Reason,
    Reclaim,
    Refused,
    Restore,
    Snapshot,
    Transition,
    Wait,
    Warn,
)
from jupyter_gpu_reclaim.core.wire import WireError, from_json, to_json

instants = st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC))
spans = st.timedeltas(timedelta(0), timedelta(days=400))
byte_maps = st.dictionaries(st.text(max_size=8), st.integers(0, 1 << 50), max_size=3)
names = st.text(max_size=12)
reasons = st.sampled_from(Reason)
transitions = st.builds(
    Transition,
    id=names,
    at=instants,
    kernel_id=names,
    event=st.sampled_from(Event),
    phase=st.sampled_from(Phase),
    episode_id=st.none() | names,
    reason=st.none() | reasons,
    footprint=byte_maps,
    moved_bytes=st.none() | st.integers(0, 1 << 50),
    freed_bytes=byte_maps,
    unmovable=byte_maps,
    took=st.none() | spans,
    detail=names,
    simulated=st.booleans(),
)
decisions = st.one_of(
    st.builds(Keep, names, reasons),
    st.builds(Warn, names, reasons),
    st.builds(Reclaim, names, reasons),
    st.builds(Restore, names, reasons, st.lists(names, max_size=2).map(tuple)),
    st.builds(Admit, names, reasons),
    st.builds(Wait, names, reasons, st.integers(1, 99), byte_maps),
)
outcomes = st.one_of(
    st.builds(Done, moved_bytes=st.integers(0, 1 << 50), took=spans, needed_bytes=byte_maps),
    st.builds(Refused, reasons, names),
    st.builds(Failed, names, st.booleans(), st.booleans()),
)


def there_and_back(kind, value):
    """The value after a journey as JSON text."""
    return from_json(kind, json.loads(json.dumps(to_json(value))))


@given(snapshots())
def test_snapshots_come_back_equal(snapshot):
    """With all their GPUs and holdings, unknown figures staying unknown."""
    assert there_and_back(Snapshot, snapshot) == snapshot


@given(policies)
def test_policies_come_back_equal(policy):
    """Every setting, spans to the microsecond."""
    assert there_and_back(Policy, policy) == policy


@given(transitions)
def test_rows_of_the_log_come_back_equal(row):
    """Any row, whatever text is in it."""
    assert there_and_back(Transition, row) == row


@given(decisions, outcomes)
def test_decisions_and_outcomes_say_which_they_are(decision, outcome):
    """A union comes back as the member it was."""
    assert there_and_back(Decision, decision) == decision
    assert there_and_back(Outcome, outcome) == outcome


def test_names_and_units_on_the_wire():
    """Spans end in _seconds, instants are UTC with Z, bytes stay ints, enums are their values."""
    berlin = datetime(2026, 1, 5, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    row = Transition(
        id="1",
        at=berlin,
        kernel_id="k",
        event=Event.RECLAIM_DONE,
        phase=Phase.RECLAIMED,
        took=timedelta(seconds=1.5),
    )
    data = to_json(row)
    assert data["at"] == "2026-01-05T12:00:00Z"
    assert (data["event"], data["phase"], data["reason"]) == ("reclaim_done", "reclaimed", None)
    assert data["took_seconds"] == 1.5
    assert "took" not in data
    assert to_json(Wait("k", Reason.NO_ROOM, 1, {"g0": GIB})) == {
        "act": "wait",
        "kernel_id": "k",
        "reason": "no_room",
        "position": 1,
        "missing": {"g0": GIB},
    }
    spans = {f.name for f in fields(Policy) if isinstance(getattr(Policy(), f.name), timedelta)}
    assert {f"{name}_seconds" for name in spans} <= set(to_json(Policy()))


def test_what_is_newer_or_older_is_taken_as_far_as_it_goes():
    """Unknown keys are passed over, and a missing one gets the noun's default."""
    assert from_json(Holding, {"kernel_id": "k", "label": "l", "invented_later": 1}) == Holding(
        kernel_id="k", label="l"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_id": 7}, "Holding.kernel_id: str expected"),
        ({"host_bytes": "many"}, "Holding.host_bytes: int expected"),
        ({"host_bytes": True}, "Holding.host_bytes: int expected"),
        ({"phase": "asleep"}, "Holding.phase: 'asleep' is no Phase"),
        ({"last_active_at": "2026-01-05T12:00:00"}, "Holding.last_active_at: .* no time zone"),
        ({"last_active_at": "noon"}, "Holding.last_active_at: 'noon' is no instant"),
        ({"footprint": {"g0": 1.5}}, r"Holding.footprint\['g0'\]: int expected"),
        ({"background_work": "none"}, "Holding.background_work: list expected"),
        ({"label": None}, "Holding.label: str expected"),
    ],
)
def test_json_that_is_not_the_noun_is_named(change, message):
    """The error names the field and what should have stood there."""
    body = to_json(Holding(kernel_id="k", label="l", last_active_at=NOW)) | change
    with pytest.raises(WireError, match=message):
        from_json(Holding, body)


def test_half_nouns_and_unknown_kinds_are_refused():
    """A missing required field, a tag nobody knows, a naive instant, something that is no noun."""
    with pytest.raises(WireError, match=r"Holding\.label is missing"):
        from_json(Holding, {"kernel_id": "k"})
    with pytest.raises(WireError, match="none of keep, warn, reclaim, restore, admit, wait"):
        from_json(Decision, {"act": "evict", "kernel_id": "k", "reason": "idle"})
    with pytest.raises(WireError, match="no time zone"):
        to_json(datetime(2026, 1, 5))
    with pytest.raises(WireError, match="object is not one of the nouns"):
        to_json(object())
