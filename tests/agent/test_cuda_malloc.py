"""The library before cudaMalloc, with a stand-in for the CUDA runtime behind it. NOT verified on hardware."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_rig import Rig

from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import environment

RUNTIME = """
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>
static int calls, error;
int calls_of_malloc(void) { return calls; }
int cudaMalloc(void** memory, size_t bytes) {
  calls++;
  if (access(getenv("FULL"), F_OK) == 0) return error = 2;
  *memory = malloc(bytes);
  return 0;
}
int cudaGetDevice(int* device) { *device = 0; return 0; }
int cudaGetLastError(void) { int last = error; error = 0; return last; }
"""
CALLS = """
import ctypes
runtime = ctypes.CDLL(RUNTIME, mode=ctypes.RTLD_GLOBAL)
at, size = ctypes.c_void_p(), ctypes.c_size_t(64 << 20)
def allocate(process=ctypes.CDLL(None)):
    at.value, before = None, runtime.calls_of_malloc()
    result = process.cudaMalloc(ctypes.byref(at), size)
    return [result, runtime.calls_of_malloc() - before, bool(at.value), runtime.cudaGetLastError()]
"""
WANTED = 64 << 20


class Cuda(Rig):
    """A kernel with the library before a runtime that has no memory while the file `full` is there."""

    def __init__(self, folder: Path, board: Board, preloaded: dict[str, str], runtime: Path) -> None:
        self.full = folder / "full"
        variables = {**environment(board.path), **preloaded, "FULL": str(self.full), "OMP_NUM_THREADS": "1"}
        super().__init__(sys.executable, folder, **variables)
        self.runtime, self.uuid = runtime, board.gpus()[0].uuid
        self.server.welcome["room_wait_seconds"] = 600.0

    def start(self) -> Cuda:
        """With torch on the simulated GPU, whose index 0 stands for CUDA's."""
        super().start()
        torch = "import torch; t = torch.ones(4, device='simgpu')"
        cell = self.kernel.run(f"RUNTIME = {str(self.runtime)!r}\n{CALLS}\n{torch}")
        assert cell.status == "ok", cell.reply
        return self

    def start_waiting(self, code: str = "print(allocate(), allocate())", stop_on_error: bool = False) -> str:
        """Send a cell that runs out twice; returns when the server has heard what it wants."""
        self.full.touch()
        seen = len(self.server.heard)
        request = self.kernel.client.execute(code, stop_on_error=stop_on_error)
        self.server.wait_for_op("room_wanted", seen, gpus={self.uuid: WANTED})
        return request


@pytest.fixture(scope="module")
def parts(
    simgpu_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Board, dict[str, str], Path]]:
    """A board, the environment that the command prints, and the stand-in for the runtime."""
    folder = tmp_path_factory.mktemp("c")
    runtime = folder / "libcudart.so.12"
    source = folder / "runtime.c"
    source.write_text(RUNTIME)
    subprocess.run(["gcc", "-fPIC", "-shared", "-o", runtime, source], check=True)
    command = [sys.executable, "-m", "jupyter_gpu_reclaim.cli", "preload", "--folder", folder]
    shown = subprocess.run(command, check=True, capture_output=True).stdout
    with Board.create(folder / "board", [("256 MB", 256 * MiB)], context_bytes=16 * MiB) as board:
        yield board, json.loads(shown)["env"], runtime


@pytest.fixture(scope="module")
def cuda(
    parts: tuple[Board, dict[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cuda]:
    """The kernel."""
    rig = Cuda(tmp_path_factory.mktemp("k"), *parts)
    yield rig.start()
    rig.stop()


def test_the_second_failure_in_a_row_waits(cuda: Cuda) -> None:
    """The first is PyTorch's, to give its cache back; the second waits, is admitted, and leaves no error behind."""
    request = cuda.start_waiting()
    cuda.full.unlink()
    cuda.server.tell("admit")
    assert cuda.kernel.finish(request).text == "[2, 1, False, 2] [0, 2, True, 0]"
    assert cuda.kernel.value("allocate()") == [0, 1, True, 0]


def test_denied_or_interrupted_it_fails_as_it_would_have(cuda: Cuda) -> None:
    """The server's word and SIGINT both end the wait with the runtime's own error; the kernel works on."""
    request = cuda.start_waiting()
    cuda.server.tell("end_wait", message="no")
    assert cuda.kernel.finish(request).text == "[2, 1, False, 2] [2, 1, False, 2]"
    request = cuda.start_waiting()
    cuda.kernel.interrupt()
    assert cuda.kernel.finish(request).ename == "KeyboardInterrupt"
    cuda.full.unlink()
    assert cuda.kernel.value("[runtime.cudaGetLastError(), *allocate()]") == [2, 0, 1, True, 0]


def test_with_the_gil_in_hand_it_never_waits(cuda: Cuda) -> None:
    """A caller that keeps the GIL gets the error at once, and nothing is asked of the server."""
    cuda.full.touch()
    seen = len(cuda.server.heard)
    code = "print([allocate(ctypes.PyDLL(None))[0] for _ in range(3)])"
    assert cuda.kernel.run(code).text == "[2, 2, 2]"
    cuda.server.ask("look")
    assert [told for told in cuda.server.heard[seen:] if told["op"] == "room_wanted"] == []


def test_a_process_without_an_agent_is_left_alone(parts: tuple[Board, dict[str, str], Path]) -> None:
    """Preloaded into any other program, Python or not, it changes nothing: errors come at once."""
    board, preloaded, runtime = parts
    full = runtime.with_name("full")
    full.touch()
    variables = {**os.environ, **environment(board.path), **preloaded, "FULL": str(full)}
    code = f"RUNTIME = {str(runtime)!r}\n{CALLS}\nprint(allocate()[0], allocate()[0])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("2 2\n", "")
    assert subprocess.run(["/bin/sh", "-c", "exit 7"], env=variables, check=False).returncode == 7


def test_a_lock_that_is_kept_keeps_it_from_waiting(
    parts: tuple[Board, dict[str, str], Path], tmp_path: Path
) -> None:
    """Where PyTorch holds its allocator's lock meanwhile, nothing waits: others would stand still."""
    board, preloaded, runtime = parts
    rig = Cuda(tmp_path, board, {**preloaded, "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}, runtime)
    try:
        rig.start().full.touch()
        assert rig.kernel.value("[allocate()[0] for _ in range(3)]") == [2, 2, 2]
        assert [told for told in rig.server.heard if told["op"] == "room_wanted"] == []
    finally:
        rig.stop()
