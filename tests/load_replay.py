"""The load test's day replayed: what the plan predicts of it, beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from jupyter_gpu_reclaim.core.model import Event, Phase, Policy, Transition
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.replay import replay
from jupyter_gpu_reclaim.plan.seat import BEGINNING, State
from jupyter_gpu_reclaim.plan.tally import Tally
from jupyter_gpu_reclaim.plan.trace import SECOND, Trace, TraceKernel

GPU = "GPU-0000"
FOREVER = 1 << 60


class Cell(NamedTuple):
    """Times in seconds: sent at, from the day's beginning; waited until it ran; worked until its reply was there."""

    sent_at: float
    waited: float
    worked: float


class Move(NamedTuple):
    """A move that was done, of a person's kernel. Times in seconds, `took` as its agent says. In the day, or before."""

    began: float
    ended: float
    kernel: int
    what: str  # "reclaim", "restore"
    reason: str
    took: float


@dataclass(frozen=True)
class Day:
    """What 24 people did and what came of it. `held` are each kernel's bytes."""

    lives: list[list[Cell]]
    moves: list[Move]
    held: int
    gpu_bytes: int
    context_bytes: int

    @property
    def seconds(self) -> float:
        """From its beginning until the last cell's end."""
        return max(sum(cell) for cells in self.lives for cell in cells)

    def within(self, what: str) -> list[Move]:
        """The reclaims, or the restores, that were done in the day."""
        return [move for move in self.moves if move.what == what and 0 < move.ended <= self.seconds]

    def write(self, path: Path) -> None:
        """To a small file, times to the millisecond."""
        rounded = json.loads(json.dumps(asdict(self)), parse_float=lambda text: round(float(text), 3))
        path.write_text(json.dumps(rounded, separators=(",", ":")).replace("]],", "]],\n") + "\n")

    @staticmethod
    def read(path: Path) -> Day:
        """What `write` wrote."""
        found = json.loads(path.read_text())
        lives = [[Cell(*cell) for cell in cells] for cells in found.pop("lives")]
        return Day(lives, [Move(*move) for move in found.pop("moves")], **found)


def moves(rows: list[dict[str, Any]], numbers: dict[str, int], began: float) -> Iterator[Move]:
    """The moves that rows of the log, oldest first, say were done; `numbers` are people's by kernel."""
    open_since: dict[tuple[str, str], tuple[float, str]] = {}
    for row in rows:
        at = datetime.fromisoformat(row["at"]).timestamp() - began
        what, _, step = row["event"].partition("_")
        if step == "started":
            open_since[row["kernel_id"], what] = at, row["reason"]
        elif step == "done" and (row["kernel_id"], what) in open_since:
            since, reason = open_since.pop((row["kernel_id"], what))
            yield Move(since, at, numbers[row["kernel_id"]], what, reason, row["took_seconds"])


def trace_of(day: Day) -> Trace:
    """Its cells with the rests that people took, whatever they waited."""
    kernels = []
    for number, cells in enumerate(day.lives):
        kernel, free_at = TraceKernel(f"k{number:02d}", "", ""), 0.0
        for cell in cells:
            kernel.add(
                round(max(0.0, cell.sent_at - free_at) * SECOND), round(cell.worked * SECOND), day.held
            )
            free_at = sum(cell)
        kernels.append(kernel)
    return Trace(tuple(kernels), round(day.seconds * SECOND))


def machine_of(day: Day, sample_seconds: float) -> Machine:
    """What its moves cost, as the log says: bytes by the time that agents took, and what passed before that.

    An agent says with its next beat that a cell has ended, and with the one after it that nothing was allocated since:
    one and a half beats as a mean (0.30 s; the median from cells' ends to reclaims that nothing held up was 0.31 s).
    """
    both = {what: day.within(what) for what in ("reclaim", "restore")}
    word = {what: mean(move.ended - move.began - move.took for move in made) for what, made in both.items()}
    return Machine(
        gpu_bytes=day.gpu_bytes,
        host_bytes=FOREVER,
        context_bytes=day.context_bytes,
        offload_speed=day.held / mean(move.took for move in both["reclaim"]),
        onload_speed=day.held / mean(move.took for move in both["restore"]),
        fixed_seconds=0,
        reclaim_word_seconds=word["reclaim"],
        restore_word_seconds=word["restore"],
        idle_seen_seconds=1.5 * sample_seconds,
    )


def moves_before(day: Day) -> list[Transition]:
    """The log's rows of the moves that were done before the day began."""
    return [
        Transition(
            id=f"{GPU}/before/{number}", at=BEGINNING + timedelta(seconds=move.ended), kernel_id=f"k{move.kernel:02d}",
            event=Event(f"{move.what}_done"), phase=Phase(f"{move.what}ed" if move.what == "reclaim" else "resident"),
            footprint={GPU: day.held}, moved_bytes=day.held, took=timedelta(seconds=move.took),
        )
        for number, move in enumerate(day.moves)
        if move.ended <= 0
    ]  # fmt: skip


def away(day: Day) -> float:
    """Share of the time, of kernels that were used, that their bytes were in host memory, where all were at first."""
    total, used = 0.0, [number for number, cells in enumerate(day.lives) if cells]
    for number in used:
        left_at: float | None = 0.0
        own = [move for move in day.moves if move.kernel == number and 0 < move.ended <= day.seconds]
        for move in sorted(own, key=lambda move: move.ended):
            if move.what == "reclaim":
                left_at = move.ended
            elif left_at is not None:
                total, left_at = total + move.began - left_at, None
        total += 0.0 if left_at is None else day.seconds - left_at
    return total / (day.seconds * len(used))


def predicted(
    day: Day,
    policy: Policy,
    tick_seconds: float,
    sample_seconds: float,
    forgotten: int = 0,
    rows: list[Transition] | None = None,
) -> Tally:
    """The day's replay, of moves before it the `forgotten` oldest left aside. `rows`, if given, takes the log's."""
    machine, before = machine_of(day, sample_seconds), moves_before(day)[forgotten:]
    return replay(
        trace_of(day), 1, policy, machine, tick_seconds, rows=rows, begin_reclaimed=True, before=before
    )


def compared(
    day: Day, policy: Policy, tick_seconds: float, sample_seconds: float, forgotten: int = 0
) -> dict[str, tuple[float, float]]:
    """Figure by figure: predicted, measured."""
    tally = predicted(day, policy, tick_seconds, sample_seconds, forgotten)
    waits = sorted(cell.waited for cells in day.lives for cell in cells)
    expected = [tally.wait_seconds((n + 0.5) / len(waits)) for n in range(len(waits))]
    tail = int(0.95 * len(waits))
    return {
        "mean wait, s": (mean(expected), mean(waits)),
        "median wait, s": (median(expected), median(waits)),
        "95 % of waits, s": (expected[tail], waits[tail]),
        "longest wait, s": (expected[-1], waits[-1]),
        "share of bytes × time in host memory": (
            tally.byte_time[State.RECLAIMED] / sum(tally.byte_time),
            away(day),
        ),
        "restores": (tally.events["restore_done"], len(day.within("restore"))),
    }


def in_words(figures: dict[str, tuple[float, float]]) -> str:
    """For whoever reads the output."""
    return "; ".join(
        f"{name}: predicted {expected:.3g}, measured {seen:.3g} ({expected / seen - 1:+.0%})"
        for name, (expected, seen) in figures.items()
    )
