"""What the bench says about samples, and what it refuses to say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_gpu_reclaim import bench
from jupyter_gpu_reclaim.bench import Figure, Refused


@pytest.mark.parametrize(
    ("limits", "holds"),
    [
        ({"target": 2}, True),
        ({"target": 1.9}, False),
        ({"at_least": 2}, True),
        ({"at_least": 2.1}, False),
        ({}, None),
    ],
)
def test_the_median_is_judged(limits: dict[str, float], holds: bool | None) -> None:
    """A figure is the median of its samples with their extremes, and holds up to and including its target."""
    figure = Figure.of("group", "name", "×", [9, 1, 2], **limits)
    assert (figure.low, figure.value, figure.high) == (1, 2, 9)
    assert figure.holds is holds
    assert figure.target == next(iter(limits.values()), None)


def test_a_line_says_which_side_of_the_target_is_good() -> None:
    """The line for people names the target with its direction, and says what falls short."""
    assert "≥ 0.9: FALLS SHORT" in bench.line(Figure.of("g", "n", "×", [0.8], at_least=0.9))
    assert "≤ 0.9: holds" in bench.line(Figure.of("g", "n", "×", [0.8], target=0.9))


def test_a_refused_figure_ends_the_bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A refusal is said, ends with 1, and no file with figures is written."""

    def measure() -> Iterator[Figure]:
        yield Figure.of("g", "before", "×", [1])
        raise Refused("3 of 4 tensors did not come back")

    monkeypatch.setattr(bench, "groups", lambda device: {"g": measure})
    shown: list[str] = []
    assert bench.run(shown.append, None, tmp_path / "figures.json") == 1
    assert shown[-1] == "REFUSED: 3 of 4 tensors did not come back"
    assert not (tmp_path / "figures.json").exists()


def test_the_file_has_the_promised_shape(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The JSON names group, name, value, unit, low, high, target and holds of every figure, and the machine."""
    group = {"g": lambda: iter([Figure.of("g", "n", "ms", [1, 2, 3], target=2)])}
    monkeypatch.setattr(bench, "groups", lambda device: group)
    assert bench.run(lambda text: None, ["g"], tmp_path / "figures.json") == 0
    content = json.loads((tmp_path / "figures.json").read_text())
    expected = {
        "group": "g",
        "name": "n",
        "value": 2,
        "unit": "ms",
        "low": 1,
        "high": 3,
        "target": 2,
        "holds": True,
    }
    assert expected.items() <= content["figures"][0].items()
    assert content["machine"]["cores"] >= 1


def test_the_table_for_the_documentation_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each figure is a row with median, extremes and target; what falls short or was not measured says so there."""
    figures = [
        Figure.of("g", "good", "ms", [1, 2, 3], target=2),
        Figure.of("g", "short", "×", [0.51234], at_least=0.9),
        Figure.unmeasured("g", "absent", "×", "no such program", at_most=1),
    ]
    monkeypatch.setattr(bench, "groups", lambda device: {"g": lambda: iter(figures)})
    assert bench.run(lambda text: None, None, markdown_path=tmp_path / "table.md") == 0
    assert (tmp_path / "table.md").read_text().splitlines()[2:] == [
        "| g | good | 2 ms | 1 – 3 | ≤ 2 |",
        "| g | short | 0.512 × | 0.512 – 0.512 | ≥ 0.9: **falls short** |",
        "| g | absent | not measured | – | no such program |",
    ]
