"""Gate and engine together: a real kernel, real tensors, a simulated GPU where touching absent bytes is fatal."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from kernel_rig import Rig

from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import environment

TENSORS = """
import gc, hashlib, threading, torch
torch.manual_seed(7)
model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Linear(256, 8)).to("simgpu")
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
x = torch.ones(1 << 16, device="simgpu")
def step(number):
    data = torch.full((16, 256), float(number) / 10, device="simgpu")
    optimizer.zero_grad()
    model(data).square().mean().backward()
    optimizer.step()
def digest():
    held = [*model.parameters(), *(p.grad for p in model.parameters()), x]
    held += [state["momentum_buffer"] for state in optimizer.state.values()]
    return hashlib.sha256(b"".join(t.detach().cpu().numpy().tobytes() for t in held)).hexdigest()
step(0)
"""


def start(folder: object, board: Board) -> Rig:
    """A kernel that sees the board, with a model on its GPU."""
    rig = Rig(sys.executable, folder, **environment(board.path), OMP_NUM_THREADS="1").start()
    cell = rig.kernel.run(f"FOLDER = {str(rig.folder)!r}\n{TENSORS}")
    assert cell.status == "ok", cell.reply
    return rig


@pytest.fixture(scope="module")
def shared_gpu_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One kernel with tensors for all tests of this module."""
    folder = tmp_path_factory.mktemp("g")
    with Board.create(folder / "board", [("8 GB", 8 << 30)], context_bytes=16 * MiB, poison=True) as board:
        rig = start(folder, board)
        yield rig
        rig.stop()


@pytest.fixture
def gpu_rig(shared_gpu_rig: Rig) -> Rig:
    """The same, resident."""
    shared_gpu_rig.server.ask("resume")
    assert shared_gpu_rig.phase() == "resident"
    return shared_gpu_rig


def test_bytes_leave_the_gpu_and_come_back(gpu_rig: Rig) -> None:
    """A reclaim frees all the allocator held; the waiting cell finds model, gradients and momenta bit for bit."""
    before = gpu_rig.kernel.value("digest()")
    reply = gpu_rig.reclaim()
    assert sum(reply["freed_bytes"].values()) > 0
    assert reply["unmovable"] == {}
    (gpu,) = gpu_rig.server.ask("look")["gpus"].values()
    assert (gpu["allocated_bytes"], gpu["reserved_bytes"]) == (0, 0)
    request = gpu_rig.start_waiting("digest()")
    gpu_rig.restore()
    assert gpu_rig.kernel.finish(request).text.strip("'") == before


def test_finalisers_do_not_touch_absent_tensors(gpu_rig: Rig) -> None:
    """Garbage whose `__del__` sums a tensor survives the time on the host and is right afterwards."""
    gpu_rig.kernel.run(
        "sums = []\n"
        "class Cycle:\n"
        "    def __init__(self): self.me, self.tensor = self, torch.ones(1000, device='simgpu')\n"
        "    def __del__(self): sums.append(float(self.tensor.sum()))\n"
        "gc.collect()\n"
        "for _ in range(3): Cycle()"
    )
    gpu_rig.reclaim()
    for _ in range(200):
        assert gpu_rig.kernel.reply(gpu_rig.kernel.send("kernel_info_request", {}))["status"] == "ok"
    gpu_rig.restore()
    gpu_rig.kernel.run("gc.collect()")
    assert gpu_rig.kernel.value("sums") == [1000.0, 1000.0, 1000.0]


def test_the_debugger_does_not_touch_absent_tensors(gpu_rig: Rig) -> None:
    """Looking at variables while reclaimed leaves the kernel alive; looking again when resident shows the tensor."""
    before = gpu_rig.kernel.value("digest()")
    gpu_rig.reclaim()
    content = {"type": "request", "seq": 1, "command": "inspectVariables", "arguments": {}}
    refusal = gpu_rig.kernel.reply(gpu_rig.kernel.send("debug_request", content, "control"), "control")
    assert refusal["success"] is False
    gpu_rig.restore()
    reply = gpu_rig.kernel.reply(gpu_rig.kernel.send("debug_request", content, "control"), "control")
    assert "tensor(" in next(v["value"] for v in reply["body"]["variables"] if v["name"] == "x")
    assert gpu_rig.kernel.value("digest()") == before


def test_training_through_interrupts_equals_training_without(gpu_rig: Rig) -> None:
    """Twelve steps, each before a reclaim and behind an interrupted wait, give the very bytes of twelve plain steps."""
    kernel = gpu_rig.kernel
    for number in range(12):
        gpu_rig.reclaim()
        request = gpu_rig.start_waiting(f"step({number})")
        kernel.interrupt()
        assert kernel.finish(request).ename == "GPURestoreInterrupted"
        request = gpu_rig.start_waiting(f"step({number})")
        gpu_rig.restore()
        assert kernel.finish(request).status == "ok"
    through_interrupts = kernel.value("digest()")
    twin = kernel.run(f"{TENSORS}\nfor number in range(12): step(number)")
    assert twin.status == "ok", twin.reply
    assert through_interrupts == kernel.value("digest()")


def test_handlers_read_tensors_at_exit(tmp_path_factory: pytest.TempPathFactory) -> None:
    """At shutdown while reclaimed an atexit handler and a `__del__` of the user's read their tensors, uncrashed."""
    folder = tmp_path_factory.mktemp("g")
    with Board.create(folder / "board", [("8 GB", 8 << 30)], context_bytes=16 * MiB, poison=True) as board:
        rig = start(folder, board)
        try:
            rig.kernel.run(
                "import atexit\n"
                "class Last:\n"
                "    def __del__(self, open=open, path=FOLDER + '/del', x=x):\n"
                "        open(path, 'w').write(str(float(x.sum())))\n"
                "last = Last()\n"
                "atexit.register(lambda: open(FOLDER + '/atexit', 'w').write(str(float(x.sum()))))"
            )
            rig.reclaim()
            rig.kernel.client.shutdown()
            rig.kernel.wait_until_gone()
            written = [(folder / name).read_text() for name in ("atexit", "del")]
            assert written == [str(float(1 << 16))] * 2
        finally:
            rig.stop()
