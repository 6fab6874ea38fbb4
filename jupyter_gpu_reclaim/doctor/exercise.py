"""`doctor --exercise`: the round trip on this machine's GPU, with every figure measured from outside, by NVML.

The bytes are moved in a process of its own, by the Python whose torch the notebooks use, so nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim import agent
from jupyter_gpu_reclaim.agent.host_limits import available_host_bytes
from jupyter_gpu_reclaim.core.explain import human_bytes
from jupyter_gpu_reclaim.doctor import round_trip
from jupyter_gpu_reclaim.gpu.nvml import Nvml

HOST_RESERVE_BYTES = 1 << 30
SIMULATED_GPU = ("Simulated GPU 2 GiB", 2 << 30)
RIGHT, WRONG, IMPOSSIBLE = 0, 1, 2  # exit codes


class Impossible(Exception):
    """The round trip could not be tried here. The message says why, and what to do."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What was measured: the "ready" and "measured" steps, then one dict a trip. Bytes, seconds and bytes/s."""

    gpu: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, Any] = field(default_factory=dict)
    trips: list[dict[str, Any]] = field(default_factory=list)
    right: bool = False
    failure: str | None = None


def run(show: Callable[[str], None], python: str, simulated: bool, json_path: Path | None) -> int:
    """Tries it and shows a line a trip. 0: every bit came back; 1: not so; 2: it could not be tried."""
    try:
        with _gpu(simulated) as environment:
            report = try_out(show, python, environment, simulated)
    except Impossible as problem:
        show(str(problem))
        return IMPOSSIBLE
    if json_path is not None:
        content = {name: getattr(report, name) for name in Report.__slots__}
        json_path.write_text(json.dumps({"simulated": simulated, **content}, indent=2) + "\n")
    return RIGHT if report.right else WRONG


@contextmanager
def _gpu(simulated: bool) -> Iterator[dict[str, str]]:
    """What the process needs in its environment to see the GPU; NVML in this process shows the same one."""
    if not simulated:
        yield {}
        return
    from jupyter_gpu_reclaim.sim.board import Board
    from jupyter_gpu_reclaim.sim.build import CannotBuild, ensure_built
    from jupyter_gpu_reclaim.sim.environment import environment, preload_nvml

    try:
        ensure_built(lambda line: None)
    except CannotBuild as problem:
        raise Impossible(str(problem)) from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "board"
        with Board.create(path, gpus=[SIMULATED_GPU]):
            preload_nvml(path)
            try:
                yield environment(path)
            finally:
                preload_nvml(None)


def _limit_bytes(simulated: bool) -> int:
    """The most that may be moved: host memory has to hold it, and on the simulated GPU the GPU's share as well."""
    available = available_host_bytes()
    if available is None:
        raise Impossible("How much host memory is available could not be read; nothing was tried.")
    return max(0, available - HOST_RESERVE_BYTES) // (2 if simulated else 1)


def try_out(show: Callable[[str], None], python: str, environment: dict[str, str], simulated: bool) -> Report:
    """What came of it, every step shown as it happens. `environment` is added to the process's own.

    Raises `Impossible`.
    """
    command = [python, round_trip.__file__, str(Path(agent.__file__).parent), str(_limit_bytes(simulated))]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
    except OSError as error:
        raise Impossible(
            f"{python} could not be started ({error}). Name another Python with --python."
        ) from None
    report = Report()
    with process, closing(Nvml()) as nvml:
        for step, facts in _steps(process):
            facts["nvml_bytes"] = _bytes_of(nvml, report.gpu.get("uuid") or facts.get("uuid"), process.pid)
            _note(report, step, facts)
            for line in _lines(report, step, simulated):
                show(line)
    if process.returncode or not report.trips:
        raise Impossible(
            f"The process that tried it ended with {process.returncode}; its last words stand above."
        )
    return report


def _steps(process: subprocess.Popen[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The process's steps; it goes on when the next one is asked for."""
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        facts = json.loads(line)
        step = facts.pop("step")
        if step == "impossible":
            raise Impossible(f"{facts['sentence']} Name the Python of your notebooks with --python.")
        yield step, facts
        if step not in ("end", "failed"):
            print(file=process.stdin, flush=True)


def _bytes_of(nvml: Nvml, uuid: str | None, pid: int) -> int | None:
    """What NVML says the process uses. None where it does not say (a container's pids, for one)."""
    processes = nvml.read().processes
    return (processes.get(uuid or "") or {}).get(pid)


def _note(report: Report, step: str, facts: dict[str, Any]) -> None:
    if step == "ready":
        report.gpu = facts
    elif step == "measured":
        report.rates = facts
    elif step == "resident":
        report.trips.append(facts)
    elif step == "end":
        report.right = facts["right"]
    elif step == "failed":
        report.failure = facts["sentence"]
    else:
        report.trips[-1][step] = facts


# ---- for people


def _lines(report: Report, step: str, simulated: bool) -> Iterator[str]:
    if step == "ready":
        kind = "SIMULATED: its rates say nothing about a real GPU" if simulated else report.gpu["uuid"]
        yield f"{report.gpu['name']} ({kind}), torch {report.gpu['torch']}"
    elif step == "measured":
        yield from _preface(report)
    elif step == "restored":
        yield _row(report.trips[-1], report.rates)
        yield from _left(report.trips[-1], report.gpu["nvml_bytes"])
    elif step == "failed":
        yield f"IT FAILED: {report.failure} Do not use it on this machine before that is understood."
    elif step == "end":
        yield (
            "Every bit came back."
            if report.right
            else "NOT EVERY BIT CAME BACK: do not use it on this machine."
        )


def _preface(report: Report) -> Iterator[str]:
    rates = report.rates
    memory = "page-locked" if rates["page_locked"] else "ordinary"
    yield (
        f"Free: {human_bytes(rates['free_bytes'])} of {human_bytes(rates['total_bytes'])}. A plain copy with {memory} "
        f"host memory: {rates['to_host_rate'] / 1e9:.1f} GB/s out, {rates['to_device_rate'] / 1e9:.1f} GB/s in."
    )
    if rates["sizes"] and rates["sizes"][-1] < int(rates["free_bytes"] * round_trip.SHARE_OF_FREE):
        yield f"Host memory allows {human_bytes(rates['sizes'][-1])} at most, less than 80 % of what is free."
    if not rates["sizes"]:
        raise Impossible("Neither GPU nor host has room for a round trip. Stop something and try again.")
    yield f"{'moved':>10}   {'out':>24}   {'in':>24}   host buffer   bits"


def _row(trip: dict[str, Any], rates: dict[str, Any]) -> str:
    moved = trip["offloaded"]["moved_bytes"]
    cells = []
    for step, rate in (("offloaded", rates["to_host_rate"]), ("restored", rates["to_device_rate"])):
        speed = moved / trip[step]["copy_seconds"]
        cells.append(f"{trip[step]['seconds']:7.3f} s {speed / 1e9:5.1f} GB/s {speed / rate:4.0%}")
    wrong = trip["restored"]["wrong_bytes"]
    verdict = "equal" if not wrong else f"{human_bytes(wrong)} WRONG"
    return (
        f"{human_bytes(moved):>10}   {cells[0]:>24}   {cells[1]:>24}   {trip['host_buffer']:11}   {verdict}"
    )


def _left(trip: dict[str, Any], context_bytes: int | None) -> Iterator[str]:
    """What stayed on the GPU while the bytes were away, and why."""
    away = trip["offloaded"]
    reasons = [f"{human_bytes(count)} {reason}" for reason, count in away["unmovable"].items()]
    if away["problem"]:
        reasons.append(away["problem"])
    if away["nvml_bytes"] is None:
        reasons.append(
            "NVML does not say what this process uses here, so it could not be checked from outside"
        )
    else:
        left = away["nvml_bytes"] - (context_bytes or 0) - sum(away["unmovable"].values())
        reasons.append(
            f"{human_bytes(context_bytes or 0)} the driver's context"
            + (f", {human_bytes(left)} that nothing here explains" if left > 0 else "")
        )
    yield f"{'':>10}   stayed on the GPU: {'; '.join(reasons)}"
