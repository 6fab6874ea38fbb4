"""The main promise on real parts: a real server, real ipykernels, real torch; only the GPU is simulated."""

from __future__ import annotations

import asyncio
import io
import json
import random
from pathlib import Path

import pandas
import pytest

from jupyter_gpu_reclaim import cli
from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.environment import environment

MIB = 1 << 20
TRAINING = """
import hashlib, torch
from torch import nn
torch.set_num_threads(1)
device = torch.device("simgpu")
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 2048), nn.GELU(),
    nn.Dropout(0.1), nn.Linear(2048, 10),
).to(device)
average = [p.detach().clone() for p in model.parameters()]
alias = model[4].weight[::2]
optimizer = torch.optim.Adam(model.parameters())
losses = []

def forward():
    x = torch.randn(16, 1, 8, 8).to(device)
    y = torch.randint(0, 10, (16,)).to(device)
    return nn.functional.cross_entropy(model(x), y)

def backward(loss):
    loss.backward()

def step():
    optimizer.step()
    for kept, p in zip(average, model.parameters()):
        kept.lerp_(p.detach(), 0.1)
    optimizer.zero_grad(set_to_none=False)
    losses.append(loss.item())

def digest():
    h = hashlib.sha256(repr(losses).encode())
    everything = [*model.parameters(), *model.buffers(), *average, alias,
                  *(p.grad for p in model.parameters() if p.grad is not None),
                  *(v for s in optimizer.state.values() for v in s.values())]
    for t in everything:
        h.update(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()
"""
STEPS = ("loss = forward()", "backward(loss)", "step()")
FILL = """
import torch
if "block" in globals():
    assert block.min() == block.max() == kept
    del block
    torch.simgpu.empty_cache()
kept = globals().get("kept", 0) + 1
free, _ = torch.simgpu.mem_get_info() if torch.simgpu.is_initialized() else (100 * 2**20, None)
block = torch.full(((free - 12 * 2**20) // 4,), float(kept), device="simgpu")
"""
CYCLES, CONTEXT_BYTES = 100, 16 * MIB


async def reclaim(notebook: OpenNotebook) -> dict:
    """Asks for the notebook's GPU until nothing stands against it any more, and waits; its row in the status."""
    path = f"/gpu-reclaim/api/kernels/{notebook.kernel_id}/reclaim"
    reply = None
    try:
        async with asyncio.timeout(30):
            # Right after a cell the last samples are still of its work: ask again, as a person would.
            while "decision" not in (reply := await notebook.server.request("POST", path, accept=(409,))):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"never reclaimed: {reply}") from None
    return await notebook.wait_for_phase("reclaimed")


async def cycles(folder: Path) -> list[str]:
    """Plays the cycles; what was found wrong, a line each."""
    rng = random.Random(20261122)
    wrong: list[str] = []
    (folder / "twin").mkdir()
    for name in ("board", "twin/board"):
        gpus = [("Simulated GPU 256 MiB", 256 * MIB)]
        Board.create(folder / name, gpus, context_bytes=CONTEXT_BYTES, poison=True).close()
    shared = Board.attach(folder / "board")
    settings = {
        "GpuReclaim.idle_after_seconds": 3600, "GpuReclaim.pressure_idle_after_seconds": 0,
        "GpuReclaim.cooldown_seconds": 0, "GpuReclaim.min_reclaim_bytes": 0,
        "GpuReclaim.tick_seconds": 0.1, "GpuReclaim.sample_seconds": 0.1,
        "GpuReclaim.max_moving_share": 0.0,  # or whoever came back stays for half a minute, on a slow machine
    }  # fmt: skip
    async with (
        JupyterServer(folder, settings, environment(folder / "board")) as server,
        JupyterServer(
            folder / "twin", environment=environment(folder / "twin/board"), enabled=False
        ) as plain,
    ):
        notebook, twin = await asyncio.gather(
            server.open_notebook("a.ipynb"), plain.open_notebook("twin.ipynb")
        )
        filler = await server.open_notebook("b.ipynb")
        await asyncio.gather(notebook.run(TRAINING), twin.run(TRAINING))
        position = 0
        for cycle in range(CYCLES):
            for _ in range(rng.randint(1, 4)):  # so that every cut between two cells comes up
                cell = STEPS[position % len(STEPS)]
                position += 1
                await asyncio.gather(notebook.run(cell), twin.run(cell))
            row = await reclaim(notebook)
            left = shared.used_bytes(row["pid"]) - CONTEXT_BYTES
            if left or row["unmovable"]:
                wrong.append(f"cycle {cycle}: {left} bytes left on the GPU, unmovable {row['unmovable']}")
            await filler.run(FILL)
            if cycle % 5 == 4:
                a, b = await asyncio.gather(notebook.run("print(digest())"), twin.run("print(digest())"))
                if a != b:
                    wrong.append(f"cycle {cycle}: the digests differ")
        a, b = await asyncio.gather(notebook.run("print(digest())"), twin.run("print(digest())"))
        if a != b:
            wrong.append("the digests differ at the end")
    shared.close()
    return wrong


@pytest.mark.timeout(600)
def test_a_hundred_random_cycles_leave_no_trace(tmp_path: Path) -> None:
    """100 times cells, reclaim, a neighbour fills the GPU, restore: never a wrong bit, nothing left on the GPU."""
    assert asyncio.run(cycles(tmp_path)) == []


def test_the_demo_holds_and_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`jupyter gpu-reclaim demo` exits 0 and its figures prove it: freed, shared, equal; its log opens in pandas."""
    path, folder = tmp_path / "figures.json", tmp_path / "demo"
    assert cli.main(["demo", "--json", str(path), "--folder", str(folder)]) == 0
    figures = json.loads(path.read_text())
    used = figures["gpu_used_bytes"]
    assert figures["bit_exact"] is True
    assert used["reclaimed"] <= used["before"] + figures["gpu"]["context_bytes"]
    assert used["trained"] > used["reclaimed"]
    assert len(figures["offload_seconds"]) >= 2  # A, then B
    assert len(figures["onload_seconds"]) >= 1
    reasons = {row["reason"] for row in figures["transitions"] if row["event"] == "reclaim_started"}
    assert {"idle", "admission"} <= reasons
    assert [step["at_seconds"] for step in figures["timeline"]] == sorted(
        step["at_seconds"] for step in figures["timeline"]
    )
    (database,) = folder.glob("shared/**/gpu_reclaim.sqlite")
    capsys.readouterr()
    assert cli.main(["log", "--db-url", f"sqlite:///{database}", "--format", "csv"]) == 0
    table = pandas.read_csv(io.StringIO(capsys.readouterr().out), parse_dates=["at"])
    assert isinstance(table["at"].dtype, pandas.DatetimeTZDtype)
    kinds = {
        "footprint_bytes": "i",
        "freed_bytes": "i",
        "moved_bytes": "f",
        "took_seconds": "f",
        "simulated": "b",
    }
    assert {name: table[name].dtype.kind for name in kinds} == kinds
    told = [(row["event"], row["moved_bytes"]) for row in figures["transitions"] if row["moved_bytes"]]
    assert sorted(told) == sorted(
        (row.event, int(row.moved_bytes)) for row in table.itertuples() if row.moved_bytes > 0
    )
