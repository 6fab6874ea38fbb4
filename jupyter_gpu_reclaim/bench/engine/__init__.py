"""The offload engine, measured: every row in a process of its own, on a board of its own (or on the CUDA GPU).

Ways are measured in turn (ours, theirs, ours, theirs …) and compared pair by pair, so that what else the machine does
meets both. A row whose data are not bit for bit what they were afterwards gives no figure: see `witness`. Copies are
compared with copies, so checksums are off but where a row says that they are on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_gpu_reclaim.bench import Figure, Refused
from jupyter_gpu_reclaim.sim.board import Board, GiB
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import environment

SIMULATED = "simgpu"
GPU = ("Simulated GPU 16 GiB", 16 * GiB)

Row = tuple[str, dict[str, Any]]  # its name in `child.ROWS`, its arguments

TRAINING = {"layers": 150, "width": 1120}  # 600 tensors of 5 MB
FULL: tuple[Row, ...] = (
    ("copies", {"count": 10, "nbytes": 200_000_000, "rounds": 7, "out_at_least": 0.95, "back_at_least": 0.9}),
    ("copies", {"count": 1000, "nbytes": 2_000_000, "rounds": 7, "out_at_least": 0.85, "back_at_least": 0.8}),
    ("copies", {"count": 10_000, "nbytes": 200_000, "rounds": 7, "out_at_least": 0.6, "back_at_least": 0.5}),
    ("verify", {"count": 10, "nbytes": 100_000_000, "rounds": 7}),
    ("verify", {"count": 500, "nbytes": 2_000_000, "rounds": 7}),
    ("verify", {"count": 5000, "nbytes": 200_000, "rounds": 7}),
    ("whole", {**TRAINING, "rounds": 5}),
    ("whole", {**TRAINING, "rounds": 5, "verify": True}),
    ("by_hand", {**TRAINING, "rounds": 3}),
    ("file", {**TRAINING, "rounds": 7}),
    ("kishu", {"count": 20, "nbytes": 5_000_000, "rounds": 3}),
    ("small", {"count": 10_000, "nbytes": 30_000, "rounds": 7}),
    ("reclaim", {"count": 100, "nbytes": 1_000_000, "rounds": 9, "at_most": 60}),
    ("reclaim", {"count": 100_000, "nbytes": 512, "rounds": 5, "at_most": 400}),
    ("scan", {"gc_objects": 1_200_000, "rounds": 9}),
    ("host_memory", {"layers": 50, "width": 1120, "rounds": 3}),
    ("mid_training", {"rounds": 3}),
    ("round_trip", {"kernels": 3, "chunks": 8, "cells": 60}),
)


def figures(device: str = SIMULATED, rows: Sequence[Row] = FULL) -> Iterator[Figure]:
    """Every figure of the group, as soon as it is measured. Raises `Refused`."""
    if device == SIMULATED:
        ensure_built(lambda line: None)
    for row in rows:
        yield from measured([row], device)


def measured(rows: Sequence[Row], device: str) -> Iterator[Figure]:
    """These rows, in one process that is bound to a fresh board. Raises `Refused`."""
    command = [sys.executable, "-m", f"{__name__}.child", device, json.dumps(rows)]
    with _surroundings(device) as more, _running(command, more) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if "refused" in told:
                raise Refused(told["refused"])
            yield Figure(**told["figure"])
        if code := process.wait():
            names = ", ".join(name for name, _ in rows)
            raise Refused(f"{names}: the process ended with {code}; its last words stand above")


@contextmanager
def _running(command: list[str], more: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **more}) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _surroundings(device: str) -> Iterator[dict[str, str]]:
    """What the process needs in its environment to see the device."""
    if device != SIMULATED:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="gpu-reclaim-bench-") as folder:
        path = Path(folder) / "board"
        with Board.create(path, gpus=[GPU]) as board:
            board.warm_pages()  # a real device's memory has no page faults
            yield environment(path)
