"""What people did: for each kernel its cells, how long it rested before each, how long it ran, and what it held.

As CSV (or Parquet, with pyarrow installed), one row a cell, in any order, with exactly these columns:

- `kernel_id`, `owner`, `label`: text; a kernel's owner and label are those of its first cell;
- `start_seconds`: when the cell was sent, in seconds from the beginning of the trace;
- `busy_seconds`: how long it ran, without any wait;
- `gpu_bytes`: what the kernel holds on its GPU from this cell on.

A replay keeps the rests between cells, not their instants: a person whose cell waited starts the next one later.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

COLUMNS = ("kernel_id", "owner", "label", "start_seconds", "busy_seconds", "gpu_bytes")
SECOND = 1_000_000
"""Instants and spans are whole microseconds, so that sums of them are exact."""


class BadTrace(ValueError):
    """The file is no trace; the message names the line and what is wrong with it."""


def _numbers() -> array:
    return array("q")


@dataclass(frozen=True, slots=True)
class TraceKernel:
    """One kernel's cells in their order: microseconds of rest before each and of work in it, and bytes held from it on.

    The first rest is from the beginning of the trace, each other from the end of the cell before.
    """

    kernel_id: str
    owner: str
    label: str
    rests: array = field(default_factory=_numbers)
    busy: array = field(default_factory=_numbers)
    held: array = field(default_factory=_numbers)

    def add(self, rest: int, busy: int, held: int) -> None:
        """One more cell."""
        self.rests.append(rest)
        self.busy.append(busy)
        self.held.append(held)


@dataclass(frozen=True, slots=True)
class Trace:
    """Kernels over `span` microseconds."""

    kernels: tuple[TraceKernel, ...]
    span: int

    @property
    def cells(self) -> int:
        """How many there are."""
        return sum(len(kernel.busy) for kernel in self.kernels)


class Row(NamedTuple):
    """A cell as it stands in a file, with times in microseconds."""

    kernel_id: str
    owner: str
    label: str
    start: int
    busy: int
    gpu_bytes: int


def assembled(rows: Iterable[Row]) -> Trace:
    """The trace that these rows make. A cell sent while the one before still ran begins right after it."""
    by_kernel: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_kernel[row.kernel_id].append(row)
    kernels, end = [], 0
    for kernel_id, own in sorted(by_kernel.items()):
        own.sort(key=lambda row: row.start)
        kernel, free_at = TraceKernel(kernel_id, own[0].owner, own[0].label), 0
        for row in own:
            rest = max(0, row.start - free_at)
            free_at += rest + row.busy
            kernel.add(rest, row.busy, row.gpu_bytes)
        end = max(end, free_at)
        kernels.append(kernel)
    return Trace(tuple(kernels), end)


def rows(trace: Trace) -> Iterator[Row]:
    """The cells with the instants that they have if none ever waits."""
    for kernel in trace.kernels:
        now = 0
        for rest, busy, held in zip(kernel.rests, kernel.busy, kernel.held, strict=True):
            now += rest
            yield Row(kernel.kernel_id, kernel.owner, kernel.label, now, busy, held)
            now += busy


def read(path: Path) -> Trace:
    """Read a trace: Parquet by its suffix, else CSV. Raises `BadTrace`, `OSError`."""
    if path.suffix == ".parquet":
        return assembled(_row(path, number, cells) for number, cells in enumerate(_parquet(path), start=1))
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        _check_columns(path, reader.fieldnames or ())
        return assembled(_row(path, reader.line_num, cells) for cells in reader)


def write_csv(trace: Trace, path: Path) -> None:
    """Write what `read` reads, the same to the microsecond."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows(trace):
            times = (f"{row.start / SECOND:.6f}", f"{row.busy / SECOND:.6f}")
            writer.writerow((row.kernel_id, row.owner, row.label, *times, row.gpu_bytes))


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise BadTrace(f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or use CSV") from None
    table = parquet.read_table(path)
    _check_columns(path, table.column_names)
    for batch in table.to_batches():
        yield from batch.to_pylist()


def _check_columns(path: Path, names: Iterable[str]) -> None:
    if tuple(names) != COLUMNS:
        raise BadTrace(f"{path}: the columns must be {','.join(COLUMNS)}")


def _row(path: Path, line: int, cells: Mapping[str, Any]) -> Row:
    try:
        start, busy = float(cells["start_seconds"]), float(cells["busy_seconds"])
        gpu_bytes = int(cells["gpu_bytes"])
    except (TypeError, ValueError) as error:
        raise BadTrace(f"{path}:{line}: {error}") from None
    if not (0 <= start < math.inf and 0 <= busy < math.inf and gpu_bytes >= 0):
        raise BadTrace(f"{path}:{line}: times and bytes must be finite and not negative")
    if not cells["kernel_id"]:
        raise BadTrace(f"{path}:{line}: a cell needs a kernel_id")
    return Row(
        cells["kernel_id"], cells["owner"] or "", cells["label"] or cells["kernel_id"],
        round(start * SECOND), round(busy * SECOND), gpu_bytes,
    )  # fmt: skip
