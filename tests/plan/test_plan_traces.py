"""Traces survive being written, bad ones are refused by line, and a public format is read for what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpu_reclaim.core.model import Policy, Transition
from jupyter_gpu_reclaim.plan import log_export, philly
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.generator import Habits, generate
from jupyter_gpu_reclaim.plan.replay import replay
from jupyter_gpu_reclaim.plan.trace import COLUMNS, SECOND, BadTrace, Row, assembled, read, rows, write_csv
from jupyter_gpu_reclaim.reclaim_log.export import text

moments = st.integers(0, 10**12)
some_rows = st.lists(
    st.builds(
        Row,
        st.sampled_from(["a", "b, c", "ü"]),
        st.just("ada"),
        st.just("x.ipynb"),
        moments,
        moments,
        moments,
    ),
    min_size=1,
)


@given(some_rows)
def test_cells_keep_their_order_rests_and_work(wanted):
    """No cell is lost, none begins before the last has ended, and those that did not overlap keep their time."""
    trace = assembled(wanted)
    assert trace.cells == len(wanted)
    for kernel in trace.kernels:
        own = sorted((row for row in wanted if row.kernel_id == kernel.kernel_id), key=lambda row: row.start)
        assert list(kernel.busy) == [row.busy for row in own]
        free_at = 0
        for cell, row in zip((r for r in rows(trace) if r.kernel_id == kernel.kernel_id), own, strict=True):
            assert cell.start == max(free_at, row.start)
            free_at = cell.start + cell.busy


def test_a_written_trace_is_read_as_it_was(tmp_path: Path) -> None:
    """CSV keeps every cell to the microsecond."""
    trace = generate(5, 3, 16 << 30, seed=4)
    write_csv(trace, tmp_path / "team.csv")
    assert read(tmp_path / "team.csv").kernels == trace.kernels


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("k,ada,x,-1,2,3", "not negative"),
        ("k,ada,x,nan,2,3", "finite"),
        ("k,ada,x,1,2", "2: int"),
        ("k,ada,x,1,two,3", "two"),
        (",ada,x,1,2,3", "kernel_id"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, what: str) -> None:
    """The message says which line is wrong, and with what."""
    path = tmp_path / "bad.csv"
    path.write_text(",".join(COLUMNS) + f"\n{line}\n")
    with pytest.raises(BadTrace, match=what) as raised:
        read(path)
    assert ":2:" in str(raised.value)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    """A file of something else is not read as a trace."""
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BadTrace, match="columns must be kernel_id"):
        read(path)


def test_equal_seeds_give_equal_teams_and_a_person_stays_the_same_in_a_larger_one() -> None:
    """Chance comes from the seed alone, one stream for each person, and every habit says where it is from."""
    small, again, large = (generate(n, 5, 16 << 30, seed=2) for n in (3, 3, 9))
    assert small == again
    assert large.kernels[:3] == small.kernels
    assert generate(3, 5, 16 << 30, seed=3) != small
    assert all(source for _, _, source in Habits().explained())


def test_phillys_attempts_become_cells(tmp_path: Path) -> None:
    """Each attempt with a beginning, an end and a GPU is one busy cell of its user's kernel, and no other is."""
    on_gpu = [{"ip": "m1", "gpus": ["gpu0"]}]
    jobs = [
        {
            "status": "Pass", "vc": "ee9e8c", "jobid": "application_1", "user": "ab",
            "attempts": [
                {"start_time": "2017-10-09 07:02:00", "end_time": "2017-10-09 07:03:30", "detail": on_gpu},
                {"start_time": "2017-10-09 08:00:00", "end_time": "2017-10-09 08:10:00", "detail": on_gpu},
            ],
        },
        {
            "status": "Killed", "vc": "ee9e8c", "jobid": "application_2", "user": "cd",
            "attempts": [
                {"start_time": "2017-10-09 07:02:30", "end_time": "2017-10-09 07:02:31", "detail": on_gpu},
                {"start_time": "2017-10-09 07:05:00", "end_time": None, "detail": on_gpu},
            ],
        },
    ]  # fmt: skip
    path = tmp_path / "cluster_job_log"
    path.write_text(json.dumps(jobs))
    found = [(row.kernel_id, row.start // SECOND, row.busy // SECOND) for row in rows(philly.read(path))]
    assert found == [("ab", 0, 90), ("ab", 3480, 600), ("cd", 30, 1)]
    path.write_text("{}")
    with pytest.raises(BadTrace, match="cluster_job_log"):
        philly.read(path)


def test_an_exported_log_becomes_stretches_of_use(tmp_path: Path) -> None:
    """The log's own export tells of each stretch from a restore to the last use before the next reclaim."""
    trace = generate(3, 2, 16 << 30, seed=5)
    written: list[Transition] = []
    replay(trace, 1, Policy(), Machine(gpu_bytes=16 << 30), rows=written)
    path = tmp_path / "log.jsonl"
    path.write_text(text("jsonl", reversed(written)))
    read_back = log_export.read(path)
    reclaims = [row for row in written if row.event == "reclaim_started"]
    assert {kernel.kernel_id for kernel in read_back.kernels} == {row.kernel_id for row in reclaims}
    assert len(reclaims) <= read_back.cells <= len(reclaims) + len(trace.kernels)
    for kernel, told in zip(trace.kernels, read_back.kernels, strict=True):
        assert sum(told.busy) >= 0.5 * sum(kernel.busy)
        assert set(told.held) == set(kernel.held)
    path.write_text("[]\n")
    with pytest.raises(BadTrace, match=":1:"):
        log_export.read(path)
