"""`jupyter gpu-reclaim plan` from the words to the figures, and pools that do what their names say."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jupyter_gpu_reclaim import cli
from jupyter_gpu_reclaim.bench import plan as bench_plan
from jupyter_gpu_reclaim.plan.baselines import NEVER, Rule, pool
from jupyter_gpu_reclaim.plan.generator import generate
from jupyter_gpu_reclaim.plan.sizing import fewest, interval
from jupyter_gpu_reclaim.plan.tally import percentile
from jupyter_gpu_reclaim.plan.trace import SECOND, Trace, TraceKernel, write_csv


class Loads(HTMLParser):
    """What a page would fetch, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag."""
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href") and value]


def test_a_plan_says_the_same_on_the_terminal_in_json_and_on_the_page(tmp_path: Path, capsys) -> None:
    """Over a recorded trace: the GPUs needed, everything that a replay says, and a page that fetches nothing."""
    write_csv(generate(8, 2, 80 << 30, seed=1), tmp_path / "team.csv")
    words = ["plan", str(tmp_path / "team.csv"), "--sweep", "idle_after=1m,20m"]
    assert cli.main([*words, "--json", str(tmp_path / "p.json"), "--html", str(tmp_path / "p.html")]) == 0
    shown = capsys.readouterr().out
    answers = json.loads((tmp_path / "p.json").read_text())["answers"]
    assert [answer["name"] for answer in answers] == ["idle_after=1m", "idle_after=20m"]
    for answer in answers:
        needed, baselines = answer["gpus_needed"][0], answer["baselines"]
        limit = baselines["limit: all GPUs as one, moves take no time"][0]
        bound = baselines["limit: kernels keep their GPU, moves take no time"][0]
        assert 1 <= limit <= bound <= needed <= baselines["one GPU per notebook"][0] <= 8
        assert answer["figures"]["wait of all cells, 95 %"]["value"][0] < 10
        assert answer["name"] in shown
    early, late = (answer["figures"]["reclaims"]["value"][0] for answer in answers)
    assert early > late
    page = Loads()
    page.feed((tmp_path / "p.html").read_text())
    assert page.fetched == []
    assert page.tags.count("path") == 8  # a line for each rule, and the wait that is short enough


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--set", "idle_after"], "setting=value"),
        (["--set", "idle=5m"], "no setting"),
        (["--set", "idle_after=soon"], "no time"),
        (["--set", "max_running_per_gpu=two"], "no int"),
        (["--gpu-memory", "80 apples"], "no size"),
        (["--seeds", "0"], "--seeds"),
        (["nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_means_nothing_is_refused_with_what_would(words: list[str], what: str, capsys) -> None:
    """Exit code 1 and one sentence, before anything is replayed."""
    assert cli.main(["plan", *words]) == 1
    captured = capsys.readouterr()
    assert what in captured.err
    assert captured.out == ""


def cells_of(*kernels: list[tuple[int, int]]) -> Trace:
    """Kernels of 1 byte with these rests and work, in seconds, over an hour."""
    made = []
    for number, cells in enumerate(kernels):
        kernel = TraceKernel(f"k{number}", "", "")
        for rest, busy in cells:
            kernel.add(rest * SECOND, busy * SECOND, 1)
        made.append(kernel)
    return Trace(tuple(made), 3600 * SECOND)


def test_a_place_that_is_never_given_up_lets_nobody_else_run() -> None:
    """With one GPU for two notebooks the second waits for ever, and its further cells count as waiting for ever."""
    trace = cells_of([(0, 10), (10, 10)], [(5, 10), (10, 10)])
    tally = pool(trace, 1, 80, Rule(name="", hold_after=NEVER))
    assert (tally.cells, tally.cells_late) == (3, 1)
    assert tally.wait_seconds(0.75) == 3595
    assert tally.wait_seconds(1.0) == float("inf")


def test_a_culled_notebook_loses_what_it_had_run() -> None:
    """Idle for longer than the time given, a place is given up, and the work since its start is counted as lost."""
    trace = cells_of([(0, 10), (50, 20), (200, 30)])
    tally = pool(trace, 1, 80, Rule(name="", hold_after=100 * SECOND, loses_work=True))
    assert tally.given_up == 2
    assert tally.lost == 60 * SECOND
    assert tally.reserved == (180 + 130) * SECOND


def test_a_place_for_each_cell_costs_its_binding_each_time() -> None:
    """Bound per cell, each cell waits for the GPU and for the binding."""
    trace = cells_of([(0, 10), (5, 10)], [(0, 10)])
    tally = pool(trace, 1, 80, Rule(name="", hold_after=0, takes=lambda size: 2 * SECOND))
    assert [wait // SECOND for wait in tally.waits] == [2, 14, 9]


def test_kernels_that_keep_their_gpu_wait_for_each_other_alone() -> None:
    """Two that share a GPU wait for each other although the third's GPU is free; in one pool nobody would."""
    trace = cells_of([(0, 10), (5, 10)], [(1, 1)], [(2, 20)])
    rule = Rule(name="", hold_after=0)
    assert [wait // SECOND for wait in pool(trace, 2, 80, replace(rule, bound=True)).waits] == [8, 15]
    assert list(pool(trace, 2, 80, rule).waits) == []


def test_quantiles_count_those_who_did_not_wait_and_those_who_never_came() -> None:
    """Nearest rank, over everybody."""
    waits = [n * SECOND for n in (1, 2, 3)]
    assert [percentile(waits, q, 5, 2) for q in (0.5, 0.6, 0.8, 0.81, 1.0)] == [
        0,
        1,
        3,
        float("inf"),
        float("inf"),
    ]
    assert percentile([], 0.95, 0, 0) == 0


def test_the_fewest_that_will_do_are_found() -> None:
    """By bisection, or nothing where not even the most will do; an interval is Student's."""
    assert [fewest(lambda n, least=least: n >= least, 1, 10) for least in (1, 4, 10, 11)] == [1, 4, 10, None]
    middle, half = interval([1, 2, 3])
    assert (middle, round(half, 3)) == (2, 2.484)


def test_the_bench_measures_replays_of_growing_size() -> None:
    """Time and memory of each, from a process of its own, then how the cost grew beside n log n."""
    found = list(bench_plan.figures((20, 40)))
    assert [figure.unit for figure in found] == ["s", "MiB", "s", "MiB", ""]
    assert all(figure.value > 0 for figure in found)
