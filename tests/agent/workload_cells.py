"""Whole notebooks, run cell by cell through IPython's shell, with or without a cycle after each cell.

The notebooks in `tests/workloads` are written for CUDA; here only the device's name in them is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from IPython.core.interactiveshell import InteractiveShell
from offload_process import Bench

from jupyter_gpu_reclaim.sim.environment import BOARD_VARIABLE

NOTEBOOKS = Path(__file__).parents[1] / "workloads"
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
OBJECTS = ("__main__", "torch.nn.", "torch.optim.", "torch.amp.", "torch.distributions.")  # looked into


def cells(name: str, device: str) -> list[str]:
    """The notebook's cells, with "cuda" changed to the name of `device`."""
    text = (NOTEBOOKS / f"{name}.py").read_text().replace("cuda", device)
    return [cell.strip() for cell in text.split("# %%\n") if cell.strip()]


class State:
    """Everything that can be reached from a namespace, put into one digest: values to the bit, and what shares memory.

    `tensors` counts the tensors of the device that are in it.
    """

    def __init__(self, device: str):
        self.tensors = 0
        self._device = device
        self._digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no id is given twice
        self._storages: dict[int, int] = {}

    def note(self, name: str, value: Any) -> None:
        """One more name of the namespace."""
        todo = [(name, value)]
        while todo:
            path, value = todo.pop()
            todo.extend(self._one(path, value))

    def hexdigest(self) -> str:
        """Of all that was noted."""
        return self._digest.hexdigest()

    def _write(self, *words: Any) -> None:
        self._digest.update(repr(words).encode())

    def _one(self, path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, PLAIN):
            self._write(path, value)
            return
        if id(value) in self._seen:
            self._write(path, "the same as", self._seen[id(value)])
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        self._write(path, type(value).__name__)
        if isinstance(value, torch.Tensor):
            yield from self._tensor(path, value)
        else:
            yield from self._parts(path, value)

    def _tensor(self, path: str, tensor: torch.Tensor) -> Iterator[tuple[str, Any]]:
        self.tensors += tensor.device.type == self._device
        key = tensor.untyped_storage()._cdata
        storage = self._storages.setdefault(key, len(self._storages))
        self._write(tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), storage)
        self._write(tensor.device, tensor.requires_grad, None if tensor.is_inference() else tensor._version)
        plain = tensor.detach().int_repr() if tensor.is_quantized else tensor.detach()
        self._digest.update(plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        if tensor.is_leaf and tensor.grad is not None:
            yield f"{path}.grad", tensor.grad
        # the attributes of a tensor subclass, of which Parameter has none
        yield from self._parts(path, getattr(tensor, "__dict__", {}))

    @staticmethod
    def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            yield from (
                (f"{path}[{k if isinstance(k, str) else i}]", v) for i, (k, v) in enumerate(value.items())
            )
        elif isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
            yield from ((f"{path}[{i}]", v) for i, v in enumerate(value))
        elif type(value).__module__.startswith(OBJECTS):
            yield from ((f"{path}.{k}", v) for k, v in vars(value).items())
        elif isinstance(value, torch.nn.Module):
            yield from ((f"{path}.{k}", v) for k, v in value.named_modules() if v is not value)


def _state_of(namespace: dict[str, Any], device: str) -> tuple[str, int]:
    state = State(device)
    for name in sorted(namespace):
        if not name.startswith("_") and name not in ("In", "Out", "exit", "quit", "open", "get_ipython"):
            state.note(name, namespace[name])
    state.note("rng", torch.get_rng_state())
    return state.hexdigest(), state.tensors


class Notebook:
    """A shell as a kernel has it, Out and all, in a namespace of its own called `__main__`."""

    def __init__(self) -> None:
        self.shell = InteractiveShell.instance()
        self.printed: list[str] = []

    def run(self, cell: str) -> None:
        """Runs one cell. Raises what it raised."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            result = self.shell.run_cell(cell, store_history=True)
        result.raise_error()
        self.printed.append(printed.getvalue())


def run(name: str, cut: bool) -> dict[str, Any]:
    """Runs a notebook in this process, to be used once. `cut`: a cycle between every two cells."""
    # As in a kernel: DataLoader's workers are forked. This process, a daemon, could otherwise have no children.
    multiprocessing.set_start_method("fork", force=True)
    multiprocessing.current_process()._config["daemon"] = False
    bench = Bench(os.environ[BOARD_VARIABLE])
    device = bench.mechanism._accelerator.type
    notebook = Notebook()
    states, cycles = [], []
    texts = cells(name, device)
    for number, text in enumerate(texts):
        notebook.run(text)
        states.append(_state_of(notebook.shell.user_ns, device))
        if cut and number < len(texts) - 1 and bench.allocated():
            result = bench.offload()
            cycles.append((result.moved_bytes, result.unmovable, result.unexplained_bytes, bench.reserved()))
            bench.onload()
    return {
        "cells": len(texts),
        "states": states,
        "printed": notebook.printed,
        "cycles": cycles,
        "succeeded": bool(notebook.shell.user_ns["succeeded"]),
    }
