"""How long a replay of a week takes, by the number of kernels, and how much memory: on one core, in a process each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from math import log
from pathlib import Path

from jupyter_gpu_reclaim.bench import Figure
from jupyter_gpu_reclaim.core.model import Policy
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.generator import generate
from jupyter_gpu_reclaim.plan.replay import replay

SIZES, TARGET = (1_000, 10_000), 10_000
LARGEST = 100_000
DAYS, USERS_PER_GPU, SEED = 7, 4, 1
SECONDS_AT_MOST, MIB_AT_MOST = 60, 1000


def measure(kernels: int) -> dict[str, float]:
    """Seconds and MiB of one replay, the trace's making apart."""
    machine = Machine()
    began = time.perf_counter()
    trace = generate(kernels, DAYS, machine.gpu_bytes, SEED)
    made = time.perf_counter()
    tally = replay(trace, max(1, kernels // USERS_PER_GPU), Policy(), machine)
    ended = time.perf_counter()
    return {"seconds": ended - made, "making": made - began, "mib": peak_mib(), "cells": tally.cells}


def peak_mib() -> float:
    """The most memory that this process has had; `getrusage` would count that of the process which started it, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def figures(sizes: tuple[int, ...] = SIZES) -> Iterator[Figure]:
    """Seconds and MiB; `LARGEST` takes eight minutes, and is measured when asked for: `python -m …bench.plan`."""
    took: dict[int, float] = {}
    for kernels in sizes:
        words = [sys.executable, "-m", __name__, str(kernels)]
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        took[kernels] = found["seconds"]
        what = f"{kernels:,} kernels × {DAYS} days ({found['cells']:,} cells) on {kernels // USERS_PER_GPU:,} GPUs"
        held_to = kernels == TARGET
        yield Figure.of("plan", what, "s", [found["seconds"]], target=SECONDS_AT_MOST if held_to else None)
        yield Figure.of("plan", f"memory of that, its trace included ({kernels:,})", "MiB", [found["mib"]],
                        target=MIB_AT_MOST if held_to else None)  # fmt: skip
    for fewer, more in pairwise(sizes):
        fair = more * log(more) / (fewer * log(fewer))
        ratio = took[more] / took[fewer] / fair
        what = f"cost from {fewer:,} to {more:,} kernels, ÷ that of n log n"
        yield Figure.of("plan", what, "", [ratio], target=1.1)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else LARGEST)))
