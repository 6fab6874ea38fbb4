"""A running cell that finds no room on the GPU: it waits, is answered, and goes on as if nothing had been."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kernel_rig import Rig
from real_kernel import Cell

from jupyter_gpu_reclaim.agent.torch_offload.out_of_memory import failed_allocation
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import environment

GPU_BYTES, CONTEXT_BYTES = 256 * MiB, 16 * MiB
WANTED = 40 * MiB  # a segment of its own: what is asked of the driver is what the tensor needs
WAITING = f"big = torch.full(({WANTED // 4},), 3.0, device='simgpu')\nprint(float(big.sum()))"
SUM = str(3.0 * WANTED / 4)
TRAINING = """
import hashlib, torch
def make():
    global model, data
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.Tanh(), torch.nn.Linear(4096, 1024)).to("simgpu")
    data = torch.randn(64, 1024).to("simgpu")
def digest():
    held = [t for p in model.parameters() for t in (p, p.grad)]
    return hashlib.sha256(b"".join(t.detach().cpu().numpy().tobytes() for t in held)).hexdigest()
"""


class Crowded:
    """A kernel, and a GPU whose free memory a stranger can take and give back."""

    def __init__(self, folder: Path, **environment_: str) -> None:
        self.board = Board.create(folder / "board", [("256 MB", GPU_BYTES)], context_bytes=CONTEXT_BYTES)
        self.uuid = self.board.gpus()[0].uuid
        self.rig = Rig(
            sys.executable, folder, **environment(self.board.path), OMP_NUM_THREADS="1", **environment_
        )
        self.kernel, self.server = self.rig.kernel, self.rig.server

    def start(self) -> Crowded:
        """With torch imported, and the context on the GPU."""
        self.rig.start()
        assert self.kernel.run("import threading, torch; t = torch.ones(4, device='simgpu')").status == "ok"
        return self

    def stop(self) -> None:
        """End both."""
        self.rig.stop()
        self.board.close()

    def fill(self) -> None:
        """Let the stranger take all that is free."""
        (gpu,) = self.board.gpus()
        self.board.set_other_used(gpu.other_used_bytes + gpu.free_bytes)

    def clear(self) -> None:
        """Let the stranger be gone."""
        self.board.set_other_used(0)

    def give(self, nbytes: int) -> None:
        """Let the stranger give so much back."""
        self.board.set_other_used(self.board.gpus()[0].other_used_bytes - nbytes)

    def start_waiting(self, code: str = WAITING, nbytes: int = WANTED) -> str:
        """Send a cell whose allocation finds no room; returns when the server has heard what it wants."""
        seen = len(self.server.heard)
        request = self.kernel.client.execute(code, stop_on_error=False)
        self.server.wait_for_op("room_wanted", seen, gpus={self.uuid: nbytes})
        return request

    def drop(self) -> None:
        """Let the kernel hold nothing but its context."""
        self.clear()
        assert self.kernel.run("big = model = data = None; torch.simgpu.empty_cache()").status == "ok"


@pytest.fixture(scope="module")
def shared_crowd(simgpu_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowded]:
    """One kernel for the tests that leave it whole."""
    crowd = Crowded(tmp_path_factory.mktemp("r"))
    crowd.server.welcome["room_wait_seconds"] = 600.0
    yield crowd.start()
    crowd.stop()


@pytest.fixture
def crowd(shared_crowd: Crowded) -> Crowded:
    """The same on a GPU that is otherwise full."""
    shared_crowd.drop()
    shared_crowd.fill()
    return shared_crowd


def test_an_allocation_waits_for_room_and_succeeds(crowd: Crowded) -> None:
    """Twenty times in a row: the wish names the driver's bytes, and once admitted the cell has its tensor, right."""
    before = crowd.board.used_bytes(crowd.kernel.pid)
    for _ in range(20):
        request = crowd.start_waiting()
        assert crowd.server.ask("look")["room_wanted"] == {crowd.uuid: WANTED}
        seen = len(crowd.server.heard)
        crowd.clear()
        crowd.server.tell("admit")
        cell = crowd.kernel.finish(request)
        assert (cell.status, cell.text) == ("ok", SUM)
        crowd.server.wait_for_op("room_wanted", seen, gpus={})
        crowd.drop()
        # Somebody else may have looked at the tensor just then.
        while crowd.board.used_bytes(crowd.kernel.pid) > before:
            assert crowd.kernel.run("torch.simgpu.empty_cache()").status == "ok"
        crowd.fill()
    status = crowd.server.ask("look")
    assert (status["room_wanted"], status["room_wanted_at"], status["running_since_at"]) == ({}, None, None)


def test_an_admission_too_early_costs_nothing(crowd: Crowded) -> None:
    """Admitted while there is still no room it asks again, as one that has waited since the start."""
    request = crowd.start_waiting()
    since = crowd.server.ask("look")["room_wanted_at"]
    seen = len(crowd.server.heard)
    crowd.server.tell("admit")
    crowd.server.wait_for_op("room_wanted", seen, gpus={crowd.uuid: WANTED})
    assert crowd.server.ask("look")["room_wanted_at"] == pytest.approx(since, abs=1.0)
    crowd.clear()
    crowd.server.tell("admit")
    assert crowd.kernel.finish(request).text == SUM


def test_a_denied_allocation_fails_as_it_would_have(crowd: Crowded) -> None:
    """The server's word ends the wait: the cell has torch's own error, and the kernel works on."""
    request = crowd.start_waiting()
    crowd.server.tell("end_wait", message="no room for you")
    assert crowd.kernel.finish(request).ename == "OutOfMemoryError"
    crowd.clear()
    assert crowd.kernel.run(WAITING).text == SUM


def test_an_interrupt_ends_the_wait(crowd: Crowded) -> None:
    """SIGINT ends the cell with its KeyboardInterrupt; Python's handler is in place as before, the next cell works."""
    code = f"import signal; before = signal.getsignal(signal.SIGINT)\n{WAITING}"
    for _ in range(5):
        request = crowd.start_waiting(code)
        crowd.kernel.interrupt()
        assert crowd.kernel.finish(request).ename in ("KeyboardInterrupt", "OutOfMemoryError")
    assert crowd.kernel.value("signal.getsignal(signal.SIGINT) is before") is True
    assert crowd.server.ask("look")["room_wanted"] == {}
    crowd.clear()
    assert crowd.kernel.run(WAITING).text == SUM


def test_an_interrupt_ends_the_wait_of_a_backward_pass(crowd: Crowded) -> None:
    """The pass allocates on a thread of its own, which no Python handler reaches: it ends all the same."""
    crowd.clear()
    assert crowd.kernel.run(f"{TRAINING}make(); loss = model(data).square().mean()").status == "ok"
    crowd.fill()
    seen = len(crowd.server.heard)
    request = crowd.kernel.client.execute("loss.backward()", stop_on_error=False)
    crowd.server.wait_for_op("room_wanted", seen)
    crowd.kernel.interrupt()
    assert crowd.kernel.finish(request).status == "error"
    assert crowd.kernel.value("1 + 1") == 2


def test_an_interrupt_that_came_before_the_wait_counts(crowd: Crowded) -> None:
    """Said by the server while the cell was still at work, it keeps what that cell allocates later from waiting."""
    path = crowd.rig.folder / "go"
    os.mkfifo(path)
    request = crowd.kernel.client.execute(f"open({str(path)!r}).read()\n{WAITING}", stop_on_error=False)
    with path.open("w"):
        crowd.server.tell("end_wait", message="interrupted", interrupted=True)
        crowd.server.ask("look")
    assert crowd.kernel.finish(request).ename == "OutOfMemoryError"
    request = crowd.start_waiting()
    crowd.clear()
    crowd.server.tell("admit")
    assert crowd.kernel.finish(request).text == SUM


def test_a_backward_pass_that_runs_out_is_transparent(crowd: Crowded) -> None:
    """Run out twice in the middle and admitted each time, it leaves the very gradients of a pass that had room."""
    crowd.clear()
    code = "make(); model(data).square().mean().backward(); print(digest())"
    twin = crowd.kernel.run(TRAINING + code).text
    crowd.drop()
    assert crowd.kernel.run("make(); loss = model(data).square().mean()").status == "ok"
    crowd.fill()
    seen = len(crowd.server.heard)
    request = crowd.kernel.client.execute("loss.backward(); print(digest())", stop_on_error=False)
    wish = crowd.server.wait_for_op("room_wanted", seen)
    seen = len(crowd.server.heard)
    crowd.give(wish["gpus"][crowd.uuid])
    crowd.server.tell("admit")
    crowd.server.wait_for(lambda told: told["op"] == "room_wanted" and told["gpus"], seen)
    crowd.clear()
    crowd.server.tell("admit")
    assert crowd.kernel.finish(request).text == twin


def test_it_waits_with_the_gil_in_hand_and_without(crowd: Crowded) -> None:
    """Where torch keeps the GIL (a storage that grows) and on a thread: both wait, both are admitted."""
    crowd.clear()
    assert crowd.kernel.run("small = torch.zeros(4, device='simgpu')").status == "ok"
    crowd.fill()
    request = crowd.start_waiting(f"small.untyped_storage().resize_({WANTED}); print(small.tolist())")
    crowd.clear()
    crowd.server.tell("admit")
    assert crowd.kernel.finish(request).text == "[0.0, 0.0, 0.0, 0.0]"
    crowd.kernel.run("small = None")
    crowd.drop()
    crowd.fill()
    code = f"def work():\n    global big\n    {WAITING.splitlines()[0]}\n"
    code += "w = threading.Thread(target=work); w.start(); w.join(); print(float(big.sum()))"
    request = crowd.start_waiting(code)
    crowd.clear()
    crowd.server.tell("admit")
    assert crowd.kernel.finish(request).text == SUM


def test_what_can_never_fit_does_not_wait(crowd: Crowded) -> None:
    """More than the whole GPU beside what the kernel holds itself: the error comes without a wish."""
    seen = len(crowd.server.heard)
    cell = crowd.kernel.run(f"torch.empty({GPU_BYTES + 1}, dtype=torch.uint8, device='simgpu')")
    assert cell.ename == "OutOfMemoryError"
    crowd.server.ask("look")
    assert [told for told in crowd.server.heard[seen:] if told["op"] == "room_wanted"] == []


def test_a_child_of_the_kernel_does_not_ask(crowd: Crowded) -> None:
    """A process that the kernel starts has nobody to ask and does not wait."""
    (crowd.rig.folder / "alone.py").write_text(
        "import torch\ntry: torch.ones(4, device='simgpu')\nexcept torch.OutOfMemoryError: print('full')\n"
    )
    code = f"import subprocess, sys; print(subprocess.check_output([sys.executable, {str(crowd.rig.folder)!r}"
    code += " + '/alone.py'], text=True))"
    assert crowd.kernel.run(code).text == "full"


def test_without_a_server_the_error_comes_at_once(tmp_path: Path, simgpu_server: None) -> None:
    """A server that dies ends the wait, and none waits while it is gone; a time limit ends one, too."""
    crowd = Crowded(tmp_path)
    crowd.server.welcome["room_wait_seconds"] = 600.0
    try:
        crowd.start().fill()
        request = crowd.start_waiting()
        crowd.server.vanish()
        assert crowd.kernel.finish(request).ename == "OutOfMemoryError"
        assert crowd.kernel.run(WAITING).ename == "OutOfMemoryError"
        crowd.server.welcome["room_wait_seconds"] = 0.5
        seen = len(crowd.server.heard)
        crowd.server.listen()
        crowd.server.wait_for_op("status", seen)
        assert crowd.kernel.finish(crowd.start_waiting()).ename == "OutOfMemoryError"
        crowd.server.wait_for_op("room_wanted", seen, gpus={})
    finally:
        crowd.stop()


def shown(cell: Cell) -> str:
    """The traceback that a cell showed, in one line."""
    return " ".join("\n".join(cell.reply["traceback"]).split())


def test_an_error_after_a_wait_says_so(tmp_path: Path, simgpu_server: None) -> None:
    """A cell that waited to its time limit says for how long and for what; its error is torch's own."""
    crowd = Crowded(tmp_path)
    crowd.server.welcome["room_wait_seconds"] = 0.5
    try:
        crowd.start().fill()
        cell = crowd.kernel.finish(crowd.start_waiting())
        assert cell.ename == "OutOfMemoryError"
        assert re.search(r"the cell waited \d+ s for room for 40\.0 MiB, and none came", shown(cell))
        crowd.server.wait_for_op("room_wanted", gpus={})
    finally:
        crowd.stop()


def test_where_none_can_wait_the_error_says_what_is_done(tmp_path: Path, simgpu_server: None) -> None:
    """With an allocator that has nobody to ask, the error names the bytes and what a second run costs; room is wanted.

    The wish ends with an admission, or by itself after the time one would have waited.
    """
    crowd = Crowded(tmp_path)
    crowd.server.welcome["room_wait_seconds"] = 600.0
    try:
        crowd.start().fill()
        crowd.kernel.run(
            "import sys; sys.modules['_jupyter_gpu_reclaim_agent'].running.room._listener.close()"
        )
        seen = len(crowd.server.heard)
        cell = crowd.kernel.run(WAITING)
        assert cell.ename == "OutOfMemoryError"
        assert "room for 40.0 MiB was asked for" in shown(cell)
        assert "safe only if all of it may run twice" in shown(cell)
        crowd.server.wait_for_op("room_wanted", seen, gpus={crowd.uuid: WANTED})
        crowd.server.tell("admit")
        crowd.server.wait_for_op("room_wanted", seen, gpus={})
        assert "room for" not in shown(
            crowd.kernel.run("raise MemoryError('Tried to allocate 2 bytes. GPU 0')")
        )
        agent = "sys.modules['_jupyter_gpu_reclaim_agent'].running"
        crowd.kernel.run(f"{agent}.room.wait_seconds = 0.2")
        seen = len(crowd.server.heard)
        crowd.kernel.run(WAITING)
        crowd.server.wait_for_op("room_wanted", seen, gpus={crowd.uuid: WANTED})
        crowd.server.wait_for_op("room_wanted", seen, gpus={})
    finally:
        crowd.stop()


CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB"
FAILED = [
    (f"{CUDA}. GPU 1 has a total capacity of 79.10 GiB of which 1.15 GiB is free.", (1, 2.005 * (1 << 30))),
    (f"{CUDA} (GPU 0; 7.93 GiB total capacity; 6.86 GiB already allocated)", (0, 2.005 * (1 << 30))),
    ("CUDA out of memory. Tried to allocate 20 MiB. GPU 3 has a total", (3, 20 << 20)),
    ("CUDA error: out of memory", None),
]


@pytest.mark.parametrize(("message", "failed"), FAILED)
def test_torchs_message_tells_what_was_asked(message: str, failed: tuple[int, float] | None) -> None:
    """Both of torch's wordings give the GPU and the bytes, rounded up; an error that says nothing gives nothing."""
    found = failed_allocation(torch.OutOfMemoryError(message))
    assert found == (failed if failed is None else (failed[0], int(failed[1])))
    assert failed_allocation(RuntimeError(message)) is None
