"""`make screenshots`: the picture of docs/operators.md, taken of a real hub whose users share a simulated GPU."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from documented_hub import BUILT_ONCE, as_documented
from hub_demo import SETTINGS
from playwright.async_api import Browser, Page, async_playwright
from real_hub import DEADLINE_SECONDS, RealHub, UserAtHub, free_ports, missing

from jupyter_gpu_reclaim.demo.jupyter_session import OpenNotebook
from jupyter_gpu_reclaim.server.hub import NODE
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.build import ensure_built
from jupyter_gpu_reclaim.sim.environment import environment

GPU = ("Simulated GPU 2 GiB", 2 << 30)
SIZE = {"width": 1000, "height": 620}
HOLD = "import torch\nx = torch.ones({count} << 18, device='simgpu')"
WORK = "import time\nwhile True:\n    x.mul_(1.0)\n    time.sleep(0.05)"
POLICIES = """\
rules:
  - name: students
    match: {groups: [students]}
    set: {idle_after_seconds: 20}
  - name: everybody
    set: {idle_after_seconds: 1200, pressure_idle_after_seconds: 1200}
"""


async def hold(user: UserAtHub, name: str, mebibytes: int) -> OpenNotebook:
    """A notebook that holds so much."""
    notebook = await user.open_notebook(name)
    await notebook.run(HOLD.format(count=mebibytes))
    await user.until(lambda row: row["footprint_bytes"] >= mebibytes * MiB, notebook)
    return notebook


async def play(hub: RealHub) -> list[asyncio.Task]:
    """Alice's notebooks are reclaimed, bob's hold most of the GPU, and a cell of alice's waits; what is under way."""
    alice, bob = await hub.user("alice"), await hub.user("bob")
    digits, gan = await hold(alice, "digits.ipynb", 700), await hold(alice, "gan.ipynb", 300)
    for notebook in (digits, gan):
        await alice.until(lambda row: row["phase"] == "reclaimed", notebook)
    training = await hold(bob, "finetuning.ipynb", 900)
    await hold(bob, "evaluation.ipynb", 500)
    under_way = [asyncio.create_task(training.run(WORK)), asyncio.create_task(digits.run("x += 1"))]
    await bob.until(lambda row: row["running_since"], training)
    await alice.until(lambda row: row["waiting"], digits)
    return under_way


async def look(browser: Browser, hub: RealHub, scheme: str) -> Page:
    """The service's first page as the admin sees it, in the light or the dark."""
    page = await browser.new_page(viewport=SIZE, color_scheme=scheme)
    await page.goto(f"{hub.url}/services/gpu-reclaim/")
    await page.fill("#username_input", "admin")
    await page.fill("#password_input", hub.password_of("admin"))
    await page.click("#login_submit")
    for text in ("Waiting cells", "given back 1000.0 MiB", "finetuning.ipynb"):
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await page.locator("main", has_text=text).count():
                await page.wait_for_timeout(1000)
                await page.reload()
    return page


async def main(folder: Path, schemes: list[str]) -> None:
    """Write admin.png, or admin-dark.png, for each of these schemes into `folder`."""
    if problem := missing():
        sys.exit(f"No picture can be taken here: {problem}.")
    ensure_built(print)
    async with AsyncExitStack() as started:
        scratch = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="hub-pictures-")))
        scratch.chmod(0o755)
        board = started.enter_context(Board.create(scratch / "board", [GPU], context_bytes=16 * MiB))
        db_url, (port,) = f"sqlite:///{scratch / 'hub.sqlite'}", free_ports(1)
        told = {**environment(board.path), **BUILT_ONCE, NODE: "gpu-node-1"}
        more = as_documented(scratch, port, db_url, POLICIES)
        hub = RealHub(scratch / "hub", SETTINGS, told, db_url=db_url, more_config=more, port=port)
        await started.enter_async_context(hub)
        playwright = await started.enter_async_context(async_playwright())
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to start as root with one
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--disable-gpu", *sandbox]
        )
        under_way = await play(hub)
        for scheme in schemes:
            page = await look(browser, hub, scheme)
            name = "admin.png" if scheme == "light" else f"admin-{scheme}.png"
            await page.screenshot(path=folder / name, full_page=True, animations="disabled")
        await browser.close()
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:] or ["light"]))
