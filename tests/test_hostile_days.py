"""What users, browsers and machines do to kernels all day, on real parts; only the GPU is simulated."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from front_end import FrontEnd
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import environment

TOTAL_BYTES, CONTEXT_BYTES = 256 * MiB, 16 * MiB
STRANGERS_BYTES = TOTAL_BYTES - CONTEXT_BYTES  # leave room for nobody's tensors
SETTINGS = {
    "GpuReclaim.idle_after_seconds": 3600, "GpuReclaim.pressure_idle_after_seconds": 0,
    "GpuReclaim.cooldown_seconds": 0, "GpuReclaim.min_reclaim_bytes": 0, "GpuReclaim.host_reserve_bytes": 0,
    "GpuReclaim.tick_seconds": 0.1, "GpuReclaim.sample_seconds": 0.1,
    "GpuReclaim.host_buffer_seconds": 0,
}  # fmt: skip
SETUP = """
import gc, sys, torch
torch.set_num_threads(1)
data = torch.arange(2**18).to("simgpu")

def same():
    assert torch.equal(data.cpu(), torch.arange(2**18))
    return "same"
"""


@dataclass
class Day:
    """A server, a board, one kernel that many tests share, and the event loop that all of them live in."""

    server: JupyterServer
    board: Board
    page: FrontEnd
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    def left_bytes(self, row: dict[str, Any]) -> int:
        """What a kernel holds on the GPU beside its context."""
        return self.board.used_bytes(row["pid"]) - CONTEXT_BYTES

    async def in_the_way(self, page: FrontEnd, act: Coroutine[Any, Any, Any]) -> Any:
        """Reclaims the page's kernel, lets strangers fill the GPU while `act` goes on, and makes them leave."""
        await page.reclaim()
        self.board.set_other_used(STRANGERS_BYTES)
        try:
            return await act
        finally:
            self.board.set_other_used(0)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """One server for the module; every test leaves the shared kernel idle and its data the same."""
    ensure_built(
        lambda line: None
    )  # where nothing is compiled yet, a cell would wait longer for it than is allowed
    folder = tmp_path_factory.mktemp("day")
    Board.create(
        folder / "board", [("Simulated", TOTAL_BYTES)], context_bytes=CONTEXT_BYTES, poison=True
    ).close()
    with asyncio.Runner() as runner, Board.attach(folder / "board") as board:
        server = JupyterServer(folder, SETTINGS, environment(folder / "board"))
        runner.run(server.__aenter__())
        try:
            page = runner.run(FrontEnd.with_kernel(server, SETUP))
            yield Day(server, board, page, runner.run)
            runner.run(page.__aexit__())
        finally:
            runner.run(server.__aexit__(None, None, None))


# ---- what notebooks hold

HELD = {
    "a generator's frame": (
        "def counting():\n    t = torch.arange(10).to('simgpu')\n    while True:\n        yield t.sum().item()\n"
        "        t = t + 1\nheld = counting(); next(held)",
        "assert next(held) == 55",
    ),
    "the frames of the last exception": (
        "def fail():\n    local = torch.arange(10).to('simgpu')\n    raise ValueError\n"
        "try:\n    fail()\nexcept ValueError as error:\n    sys.last_value = error",
        "assert sys.last_value.__traceback__.tb_next.tb_frame.f_locals['local'].sum().item() == 45",
    ),
    "the history of outputs": ("torch.arange(10).to('simgpu')", "assert Out[max(Out)].sum().item() == 45"),
    "a graph of ten thousand nodes": (
        "held = torch.ones(4).to('simgpu').requires_grad_(); y = held\nfor _ in range(10_000):\n    y = y + held",
        "y.sum().backward(); assert held.grad.tolist() == [10_001.0] * 4; del y",
    ),
    "views in inference mode": (
        "with torch.inference_mode():\n    held = torch.ones(10).to('simgpu'); view = held[2:]",
        "assert held.is_inference() and view.data_ptr() == held.data_ptr() + 8 and view.sum().item() == 8",
    ),
    "weak references with callbacks": (
        "import weakref\nheld, died = torch.ones(4).to('simgpu'), []\nweak = weakref.ref(held, died.append)",
        "assert weak() is held and held.sum().item() == 4 and not died",
    ),
    "garbage with finalisers": (
        "class Cycle:\n    def __init__(self):\n        self.me, self.t = self, torch.ones(4).to('simgpu')\n"
        "    def __del__(self):\n        log.append(self.t.sum().item())\nlog = []; Cycle(); None",
        "gc.collect(); assert log == [4.0] and gc.isenabled()",
    ),
    "a compiled module": (
        "held = torch.nn.Linear(4, 4).to('simgpu'); fast = torch.compile(held, backend='eager')\n"
        "x = torch.ones(1, 4).to('simgpu'); before = fast(x).detach().cpu()",
        "assert torch.equal(fast(x).detach().cpu(), before)",
    ),
    "a scaler and its optimizer": (
        "held = torch.nn.Linear(4, 4).to('simgpu'); o = torch.optim.SGD(held.parameters(), 0.1, momentum=0.9)\n"
        "scaler = torch.amp.GradScaler('simgpu')\ndef step():\n    o.zero_grad()\n"
        "    with torch.autocast('simgpu', dtype=torch.bfloat16):\n"
        "        loss = held(torch.ones(1, 4).to('simgpu')).float().pow(2).sum()\n"
        "    scaler.scale(loss).backward(); scaler.step(o); scaler.update(); return loss.item()\nfirst = step()",
        "assert step() < first",
    ),
    "workers of a DataLoader": (
        "from torch.utils.data import DataLoader\n"
        "held = DataLoader(torch.arange(8.0), 4, num_workers=1, persistent_workers=True)\n"
        "total = sum(batch.to('simgpu').sum() for batch in held)",
        "assert total.item() == sum(batch.to('simgpu').sum() for batch in held).item() == 28; del held",
    ),
}


@pytest.mark.parametrize("held", HELD)
def test_what_notebooks_hold_comes_back(day: Day, held: str) -> None:
    """Whatever holds the tensors, all of them leave the GPU, and the next cell finds each in its place."""
    before, after = HELD[held]

    async def play() -> None:
        await day.page.run(before)
        row = await day.page.reclaim()
        assert (day.left_bytes(row), row["unmovable"]) == (0, {})
        await day.page.run(after + "\nassert same()")

    day.run(play())


LEFT_BEHIND = {
    "thread 'trainer'": (
        "import threading\nend = threading.Event()\ndef train():\n    end.wait(); data.sum()\n"
        "left = threading.Thread(target=train, name='trainer'); left.start()",
        "end.set(); left.join()",
    ),
    "runs watch()": (
        "import asyncio\nasync def watch():\n    await asyncio.sleep(600); data.sum()\n"
        "left = asyncio.create_task(watch())",
        "left.cancel()",
    ),
    "<lambda>()": ("import threading\nleft = threading.Timer(600, lambda: data.sum()); left.start()", "left.cancel()"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_work_left_behind_is_named(day: Day, name: str) -> None:
    """A kernel whose user left a thread, a task or a timer that uses tensors is not reclaimed, and is told which."""
    leave, end = LEFT_BEHIND[name]

    async def play() -> None:
        await day.page.run(leave)
        try:
            await day.page.refusal("background_work", name)
        finally:  # the next test has the same kernel
            await day.page.run(end)

    day.run(play())


def test_host_memory_goes_back_with_the_restore(day: Day) -> None:
    """Told to keep none, a kernel that is back on the GPU holds no host memory for what it had there."""

    async def play() -> None:
        for _ in range(2):
            assert (await day.page.reclaim())["host_bytes"] > 0
            assert await day.page.run("print(same())") == "same\n"
            await day.page.row_where(phase="resident", host_bytes=0)

    day.run(play())


# ---- cells that wait


def test_an_interrupted_wait_is_an_error_like_any_other(day: Day) -> None:
    """An interrupt ends the wait with one clear error, uses up no number, and drops the cells queued behind it."""

    async def play() -> None:
        page = day.page
        number = (await page.reply(page.execute("same()")))["execution_count"]

        async def interrupted() -> None:
            cells = [page.execute(f"print('ran', {i})") for i in range(3)]
            await page.row_where(waiting=1)
            await day.server.request("POST", f"/api/kernels/{page.kernel_id}/interrupt", {})
            replies = [await page.reply(cell) for cell in cells]
            assert [reply["status"] for reply in replies] == ["error", "aborted", "aborted"]
            assert replies[0]["ename"] == "GPURestoreInterrupted"
            assert "nothing was lost" in replies[0]["evalue"]
            assert [m["content"]["ename"] for m in page.of(cells[0], "error")] == ["GPURestoreInterrupted"]
            assert [page.printed(cell) for cell in cells] == ["", "", ""]

        await day.in_the_way(page, interrupted())
        reply = await page.reply(page.execute("same()"))
        assert (reply["status"], reply["execution_count"]) == ("ok", number + 1)

    day.run(play())


def test_everybody_who_waits_is_served(day: Day) -> None:
    """Cells of two pages and of a subshell wait for the same kernel; when there is room all of them run."""

    async def play() -> None:
        page, other = day.page, await FrontEnd(day.server, day.page.kernel_id).__aenter__()
        subshell = (await page.reply(page.send("create_subshell_request", {}, "control")))["subshell_id"]

        async def waiting() -> tuple[str, str, str]:
            first = page.execute("print(same(), 1)")
            await page.row_where(waiting=1)
            beside = page.execute("print(same(), 2)", subshell_id=subshell)
            await page.row_where(waiting=2)
            assert (await page.reply(page.send("kernel_info_request", {}, "control")))["status"] == "ok"
            return first, beside, other.execute("print(same(), 3)")

        first, beside, second = await day.in_the_way(page, waiting())
        assert {(await page.reply(cell))["status"] for cell in (first, beside)} == {"ok"}
        assert (await other.reply(second))["status"] == "ok"
        assert (
            page.printed(first) + page.printed(beside) + other.printed(second) == "same 1\nsame 2\nsame 3\n"
        )
        await page.reply(page.send("delete_subshell_request", {"subshell_id": subshell}, "control"))
        assert await page.run("print(gc.isenabled())") == "True\n"
        await other.__aexit__()

    day.run(play())


def test_a_cell_that_asks_its_user_is_at_work(day: Day) -> None:
    """A cell that waits in input() runs, however long it waits: it is not reclaimed, and goes on when answered."""

    async def play() -> None:
        page = day.page
        cell = page.execute("print(input() + same())", stdin=True)
        await page.until(lambda: page.of(cell, "input_request"))
        await page.refusal("running")
        page.send("input_reply", {"value": "the "}, "stdin")
        assert (await page.reply(cell))["status"] == "ok"
        assert page.printed(cell) == "the same\n"

    day.run(play())


def test_a_page_that_opens_wakes_nobody(day: Day) -> None:
    """All that a browser sends by itself is answered, and the kernel stays reclaimed, no less idle than before."""

    async def play() -> None:
        widget = (await day.page.run(
            "import ipywidgets\nslider = ipywidgets.IntSlider()\nslider.observe(lambda _: data.sum())\n"
            "print(slider.comm.comm_id)"
        )).strip()  # fmt: skip
        before = await day.page.reclaim()
        page = await FrontEnd(day.server, day.page.kernel_id).__aenter__()
        for kind, content in (
            ("comm_info_request", {"target_name": "jupyter.widget"}),
            ("complete_request", {"code": "data.", "cursor_pos": 5}),
            ("inspect_request", {"code": "data", "cursor_pos": 4, "detail_level": 0}),
            ("history_request", {"output": False, "raw": True, "hist_access_type": "tail", "n": 9}),
            ("is_complete_request", {"code": "data +"}),
        ):
            assert (await page.reply(page.send(kind, content)))["status"] in ("ok", "incomplete", "invalid")
        assert (await page.reply(page.execute("", silent=True)))["status"] == "ok"
        for message in ({"method": "request_state"},):
            asked = page.send("comm_msg", {"comm_id": widget, "data": message})
            answers = await page.until(lambda asked=asked: page.of(asked, "comm_msg"))
            assert answers[0]["content"]["data"]["state"]["value"] == 0
        debug = {"seq": 1, "type": "request", "command": "inspectVariables"}
        answer = await page.reply(page.send("debug_request", debug, "control"))
        assert (answer["success"], answer["body"]) == (False, {"variables": []})
        row = await page.row_where(phase="reclaimed", waiting=0)
        assert (row["last_active_at"], row["phase_since"]) == (
            before["last_active_at"],
            before["phase_since"],
        )
        assert await day.page.run("print(same())") == "same\n"
        await page.__aexit__()

    day.run(play())


# ---- when something breaks


def test_a_move_that_fails_loses_nothing(day: Day) -> None:
    """An offload whose copy fails is rolled back; an onload without memory is tried again until it succeeds."""

    async def play() -> None:
        pid = (await day.page.row())["pid"]
        day.board.set_fault("copy", 1, pid=pid)
        while "decision" not in await day.page.ask_to_reclaim():
            await asyncio.sleep(0.03)
        await day.page.row_where(phase="resident", waiting=0)
        day.board.clear_faults()
        assert await day.page.run("print(same())") == "same\n"
        await day.page.reclaim()
        day.board.set_fault("alloc", 2, count=1, pid=pid)
        assert await day.page.run("print(same())") == "same\n"
        day.board.clear_faults()

    day.run(play())


def test_a_killed_kernel_starts_anew(day: Day) -> None:
    """A reclaimed kernel that is killed is restarted by Jupyter, and its successor is cared for from the start."""

    async def play() -> None:
        page = await FrontEnd.with_kernel(day.server, SETUP)
        killed = await page.reclaim()
        os.kill(killed["pid"], signal.SIGKILL)
        async with asyncio.timeout(30):
            while (row := await page.row()).get("pid") == killed["pid"] or not row.get("managed"):
                await asyncio.sleep(0.05)
        assert (row["phase"], row["host_bytes"], row["waiting"]) == ("resident", 0, 0)
        await page.run(SETUP)
        assert day.left_bytes(await page.reclaim()) == 0
        assert await page.run("print(same())") == "same\n"
        await day.server.request("DELETE", f"/api/kernels/{page.kernel_id}")
        await page.__aexit__()

    day.run(play())


def test_exit_handlers_of_a_reclaimed_kernel_find_their_tensors(day: Day, tmp_path: Path) -> None:
    """Shutting a reclaimed kernel down runs its user's exit handlers and finalisers, on tensors that are all there."""
    at_exit, finalised = tmp_path / "at_exit", tmp_path / "finalised"

    async def play() -> None:
        page = await FrontEnd.with_kernel(day.server, SETUP + f"""
import atexit, pathlib
atexit.register(lambda: pathlib.Path({str(at_exit)!r}).write_text(same()))
class Last:
    def __init__(self):
        self.tensor = torch.arange(10).to("simgpu")
    def __del__(self, path=pathlib.Path({str(finalised)!r})):
        path.write_text(str(self.tensor.sum().item()))
last = Last()
""")  # fmt: skip
        await page.reclaim()
        await day.server.request("DELETE", f"/api/kernels/{page.kernel_id}")
        await page.__aexit__()

    day.run(play())
    assert (at_exit.read_text(), finalised.read_text()) == ("same", "45")


def test_nbclient_runs_a_notebook_past_every_reclaim(day: Day) -> None:
    """A client that speaks to the kernel by ZeroMQ, past the server, passes the same gate: its cells just run."""

    async def play() -> None:
        connection = day.server.folder / "runtime" / f"kernel-{day.page.kernel_id}.json"
        cells = [
            nbformat.v4.new_code_cell(c) for c in ("same()", "await __import__('asyncio').sleep(0); same()")
        ]
        manager = AsyncKernelManager()
        manager.load_connection_file(str(connection))
        runner = NotebookClient(nbformat.v4.new_notebook(cells=cells), km=manager)
        runner.kc = manager.client()
        runner.kc.start_channels()
        try:
            await runner.kc.wait_for_ready(30)
            for number, cell in enumerate(cells):
                await day.page.reclaim()
                await runner.async_execute_cell(cell, number)
                assert cell.outputs[0]["data"]["text/plain"] == "'same'"
        finally:
            runner.kc.stop_channels()

    day.run(play())
