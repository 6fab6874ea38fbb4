"""The simulated GPU for any test: a fresh board, and functions run in processes that see it.

A process binds one board for its life, so device code runs in processes of its own. They are forked from one server
that has imported torch already (and touched no device), which makes them cheap: some ten milliseconds each.

A conftest takes the fixtures with `from simgpu import new_board, sim_board, simgpu_server  # noqa: F401`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.build import torch_device_library
from jupyter_gpu_reclaim.sim.environment import BOARD_VARIABLE, environment

DEADLINE_SECONDS = 120  # generous: only a hang reaches it

_context = multiprocessing.get_context("forkserver")


class ChildFailed(AssertionError):
    """The function raised in its process; the message is its traceback."""


class ChildDied(AssertionError):
    """The process ended without an answer. `signal` is what killed it, None for a plain exit."""

    def __init__(self, exitcode: int | None):
        self.signal = signal.Signals(-exitcode) if exitcode is not None and exitcode < 0 else None
        super().__init__(
            f"the process died of {self.signal.name if self.signal else f'exit code {exitcode}'}"
        )


class SimProcess:
    """`function(channel, *args)` at work in a process that sees `board`; a context manager that ends it.

    The function talks to the test by `channel.send(value)` and `channel.recv()`; the test by `send` and `receive`.
    It must be defined at the top level of a test module. What it returns is `receive`d last.
    """

    def __init__(self, board: Board, function: Callable[..., Any], *args: Any):
        self.channel, theirs = _context.Pipe()
        self.process = _context.Process(
            target=_run, args=(theirs, str(board.path), function, args), daemon=True
        )
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def send(self, value: Any) -> None:
        """Hand a value to the function's `channel.recv()`."""
        self.channel.send(value)

    def receive(self, seconds: float = DEADLINE_SECONDS) -> Any:
        """What the function sent or returned within so many seconds.

        Raises `ChildFailed`, `ChildDied` or, on a hang, `TimeoutError`.
        """
        if not self.channel.poll(seconds):
            raise TimeoutError(f"nothing from the process in {seconds} s")
        try:
            kind, value = self.channel.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(DEADLINE_SECONDS)
            raise ChildDied(self.process.exitcode) from None
        if kind == "raised":
            raise ChildFailed(value)
        return value

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.join(DEADLINE_SECONDS)

    def __enter__(self) -> SimProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self.channel.close()


class _Channel:
    """The function's end of the pipe."""

    def __init__(self, pipe: Any):
        self._pipe = pipe

    def send(self, value: Any) -> None:
        self._pipe.send(("value", value))

    def recv(self) -> Any:
        return self._pipe.recv()


def _run(pipe: Any, board: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ[BOARD_VARIABLE] = board
    try:
        pipe.send(("value", function(_Channel(pipe), *args)))
    except BaseException:
        pipe.send(("raised", traceback.format_exc()))


def without_channel(channel: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """What `function(*args)` returns: for a function that has nothing to say before its end."""
    return function(*args)


def run_on_simgpu(board: Board, function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)`, a top-level function, returns in a process of its own that sees `board`.

    Arguments and result are pickled, and tensors belong to the process: return plain values. Raises as
    `SimProcess.receive` does.
    """
    with SimProcess(board, without_channel, function, args) as process:
        return process.receive()


@pytest.fixture(scope="session")
def simgpu_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Builds both libraries and starts the server that processes are forked from, with the device registered."""
    torch_device_library()
    with (
        Board.create(tmp_path_factory.mktemp("simgpu") / "unused.board") as board,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment(board.path).items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", "1")  # many processes, few cores
        _context.set_forkserver_preload(["torch", "torch._dynamo"])  # the latter: what optimizers import late
        process = _context.Process(target=_nothing)
        process.start()
        process.join(DEADLINE_SECONDS)
        assert process.exitcode == 0


def _nothing() -> None:
    pass


@pytest.fixture
def new_board(tmp_path: Path, simgpu_server: None) -> Iterator[Callable[..., Board]]:
    """Makes fresh boards: `new_board(("GPU A", bytes), …, context_bytes=…)`; with no GPU named, one of 256 MiB."""
    boards: list[Board] = []

    def make(*gpus: tuple[str, int], context_bytes: int = 16 * MiB, **options: Any) -> Board:
        path = tmp_path / f"{len(boards)}.board"
        boards.append(
            Board.create(path, gpus or [("GPU 256 MB", 256 * MiB)], context_bytes=context_bytes, **options)
        )
        return boards[-1]

    yield make
    for board in boards:
        board.close()


@pytest.fixture
def sim_board(new_board: Callable[..., Board]) -> Board:
    """A board with one GPU of 256 MiB, 16 MiB of which each process pays as its context."""
    return new_board()
