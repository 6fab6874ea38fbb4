"""The load test's day replayed: what the plan predicts of it, beside what was measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from statistics import mean, median
from typing import Any

from jupyter_gpu_reclaim.core.model import Policy
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.replay import replay
from jupyter_gpu_reclaim.plan.seat import State
from jupyter_gpu_reclaim.plan.trace import SECOND, Trace, TraceKernel

Cells = list[tuple[datetime, float, float]]
"""Of one person: sent at, seconds until it ran, seconds of work."""


def recorded(people: list[Cells], held: int, began: datetime, ended: datetime) -> Trace:
    """Their cells with the rests that they took, whatever they waited."""
    kernels = []
    for number, cells in enumerate(people):
        kernel, free_at = TraceKernel(f"k{number:02d}", "", ""), began
        for sent_at, waited, busy in cells:
            rest = max(timedelta(0), sent_at - free_at)
            kernel.add(rest // timedelta(microseconds=1), round(busy * SECOND), held)
            free_at = sent_at + timedelta(seconds=waited + busy)
        kernels.append(kernel)
    return Trace(tuple(kernels), (ended - began) // timedelta(microseconds=1))


def moves(rows: list[dict[str, Any]], what: str) -> list[tuple[datetime, datetime, str]]:
    """Beginning, end and kernel of each move that was done; `rows` oldest first."""
    found, open_since = [], {}
    for row in rows:
        if row["event"] == f"{what}_started":
            open_since[row["kernel_id"]] = datetime.fromisoformat(row["at"])
        elif row["event"] == f"{what}_done" and row["kernel_id"] in open_since:
            began = open_since.pop(row["kernel_id"])
            found.append((began, datetime.fromisoformat(row["at"]), row["kernel_id"]))
    return found


def seconds_a_move(made: list[tuple[datetime, datetime, str]]) -> float:
    """Time in which any was under way, for each: as if they had come one after the other, as a replay has them."""
    under_way, until = timedelta(0), datetime.min.replace(tzinfo=UTC)
    for began, ended, _ in sorted(made):
        under_way += max(timedelta(0), ended - max(began, until))
        until = max(until, ended)
    return under_way.total_seconds() / len(made)


def away(rows: list[dict[str, Any]], kernels: int, began: datetime, ended: datetime) -> float:
    """Share of the kernels' time that their bytes were in host memory, where all were when it began."""
    since, total = {}, timedelta(0)
    for _, at, kernel in moves(rows, "reclaim"):
        since.setdefault(kernel, []).append(at)
    for kernel, left in since.items():
        back = [at for _, at, name in moves(rows, "restore") if name == kernel]
        for at in left:
            returned = min([b for b in back if b > at], default=ended)
            total += max(timedelta(0), min(returned, ended) - max(at, began))
    return total / ((ended - began) * kernels)


def compared(
    people: list[Cells], rows: list[dict[str, Any]], policy: Policy, held: int, gpu_bytes: int, context: int
) -> str:
    """Predicted and measured waits and shares of bytes × time, in words. `rows` oldest first."""
    began = min(cells[0][0] for cells in people)
    ended = max(at + timedelta(seconds=waited + busy) for cells in people for at, waited, busy in cells)
    trace = recorded(people, held, began, ended)
    within = [row for row in rows if datetime.fromisoformat(row["at"]) > began]
    speeds = {what: held / seconds_a_move(moves(within, what)) for what in ("reclaim", "restore")}
    machine = Machine(
        gpu_bytes=gpu_bytes,
        host_bytes=1 << 60,
        context_bytes=context,
        offload_speed=speeds["reclaim"],
        onload_speed=speeds["restore"],
        fixed_seconds=0,
    )
    tally = replay(trace, 1, policy, machine, tick_seconds=0.2, begin_reclaimed=True)
    waits = sorted(waited for cells in people for _, waited, _ in cells)
    predicted = [tally.wait_seconds((n + 0.5) / len(waits)) for n in range(len(waits))]
    figures = {
        "mean wait, s": (mean(predicted), mean(waits)),
        "median wait, s": (median(predicted), median(waits)),
        "95 % of waits, s": (predicted[int(0.95 * len(waits))], waits[int(0.95 * len(waits))]),
        "longest wait, s": (predicted[-1], waits[-1]),
        "share of bytes × time in host memory": (
            tally.byte_time[State.RECLAIMED] / sum(tally.byte_time),
            away(rows, len(people), began, ended),
        ),
        "restores": (tally.events["restore_done"], len(moves(within, "restore"))),
    }
    return "; ".join(
        f"{name}: predicted {expected:.3g}, measured {seen:.3g} ({expected / seen - 1:+.0%})"
        for name, (expected, seen) in figures.items()
    )
