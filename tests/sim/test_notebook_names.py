"""A notebook written for CUDA runs on the simulated GPU after its device's name is changed, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from simgpu import run_on_simgpu

from jupyter_gpu_reclaim.sim.board import Board, MiB

NOTEBOOK = """
import torch
from torch.cuda.amp import GradScaler, autocast
assert torch.cuda.is_available() and torch.cuda.device_count() == 1
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = True
torch.cuda.manual_seed_all(3)
torch.cuda.manual_seed(3)
print(torch.version.cuda, torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory)
torch.cuda.set_device(0)
torch.cuda.reset_peak_memory_stats()
start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
start.record()
net = torch.nn.Linear(64, 64).cuda()
x = torch.randn(256, 64).pin_memory().cuda(non_blocking=True)
scaler = GradScaler()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
losses = []
for _ in range(4):
    optimizer.zero_grad(set_to_none=True)
    with autocast(), torch.cuda.amp.autocast(dtype=torch.bfloat16):
        loss = (net(x).float() ** 2).mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    losses.append(loss.item())
@torch.cuda.amp.custom_fwd(cast_inputs=torch.float32)
def forward(self, x):
    return x
with torch.cuda.stream(torch.cuda.Stream()), torch.autocast("cuda", dtype=torch.bfloat16):
    half = net(x)
end.record()
torch.cuda.synchronize()
elapsed = start.elapsed_time(end)
state = torch.cuda.get_rng_state()
torch.cuda.set_rng_state_all(torch.cuda.get_rng_state_all())
summary = torch.cuda.memory_summary()
peak, now, reserved = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
free, total = torch.cuda.mem_get_info()
torch.cuda.empty_cache()
torch.cuda.ipc_collect()
try:
    torch.empty(1 << 40, device="cuda")
except torch.cuda.OutOfMemoryError as error:
    message = str(error)
on_device = x.is_cuda and next(net.parameters()).is_cuda
"""


def run_notebook() -> dict[str, Any]:
    """What the notebook left, as plain values."""
    names: dict[str, Any] = {}
    exec(NOTEBOOK.replace("cuda", "simgpu"), names)
    plain = (
        "losses",
        "elapsed",
        "summary",
        "peak",
        "now",
        "reserved",
        "free",
        "total",
        "message",
        "on_device",
    )
    return {**{name: names[name] for name in plain}, "half": str(names["half"].dtype)}


@pytest.fixture
def left(sim_board: Board) -> dict[str, Any]:
    """What the notebook left behind on a device of 256 MiB."""
    return run_on_simgpu(sim_board, run_notebook)


def test_a_notebook_for_cuda_runs(left: dict[str, Any]) -> None:
    """It trains with mixed precision, on the device, and its figures make sense together."""
    assert left["on_device"]
    assert left["losses"][-1] < left["losses"][0]
    assert left["half"] == "torch.bfloat16"
    assert 0 < left["now"] <= left["peak"] <= left["reserved"]
    assert 0 < left["free"] < left["total"] == 256 * MiB
    assert "out of memory" in left["message"]


def test_time_is_measured(left: dict[str, Any]) -> None:
    """The time between two events is the milliseconds that passed: more than none, less than the test's own limit."""
    assert 0 < left["elapsed"] < 120_000


def test_what_people_read_says_simulated(left: dict[str, Any]) -> None:
    """The summary names the device, and that it is simulated."""
    assert left["summary"].startswith("Simulated GPU 256 MB")
    assert f"{left['now']:,}" in left["summary"]
