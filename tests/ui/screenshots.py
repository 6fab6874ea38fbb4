"""`make screenshots`: the pictures of docs/users.md, taken of a real server with real kernels on the simulated GPU."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from browser import Lab, chromium, command, lab, open_notebook, open_page, row, run_cell, show_sidebar
from playwright.sync_api import Page, sync_playwright

from jupyter_gpu_reclaim.demo.play import HERE
from jupyter_gpu_reclaim.sim.board import Board, MiB

GPU = ("8 GiB", 8 << 30)
SIZE = (1280, 760)
HOLD = "import torch\nx = torch.ones({count} << 18, device='simgpu')"
WORK = "import time\nwhile True:\n    x.mul_(1.0)\n    time.sleep(0.05)"
SETTINGS = {
    "GpuReclaim.idle_after_seconds": 20,
    "GpuReclaim.pressure_idle_after_seconds": 3600,
}
PATIENCE_SECONDS = 300  # on a busy machine, too


def hold(lab: Lab, name: str, mebibytes: int) -> Any:
    """A notebook that holds so much."""
    lab.notebook(name, [HOLD.format(count=mebibytes)])
    return lab.start(name, HOLD.format(count=mebibytes))


def take(page: Page, folder: Path, name: str) -> None:
    """One picture, with the pointer out of the way and no notification over it."""
    page.evaluate(
        "() => document.querySelectorAll('.Toastify__close-button').forEach(button => button.click())"
    )
    page.locator(".Toastify__toast").first.wait_for(state="detached")
    page.mouse.move(640, 740)
    page.screenshot(path=folder / name, animations="disabled")


def main(folder: Path) -> None:
    """Write all pictures into `folder`."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Board.create(Path(scratch) / "board", [GPU]) as board,
        lab(Path(scratch) / "lab", board, SETTINGS) as server,
        sync_playwright() as playwright,
    ):
        (server.server.folder / "digits.ipynb").write_bytes((HERE / "digits.ipynb").read_bytes())
        browser = chromium(playwright)
        page = open_page(browser, server, "lab", SIZE)
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        command(page, "application:toggle-left-area")
        show_sidebar(page)
        open_notebook(page, "digits.ipynb")
        for cell in (1, 2, 3):
            trained = run_cell(page, cell)
        trained.filter(
            has_text="45 steps"
        ).wait_for()  # else nothing of it is on the GPU, and nothing to reclaim
        kept = hold(server, "finetuning.ipynb", 1400)
        server.request("PUT", f"/gpu-reclaim/api/kernels/{kept.kernel_id}/pin", {"seconds": 4 * 3600})
        busy = hold(server, "gan.ipynb", 900)
        server.until(lambda kernel, _: kernel["decision"]["reason"] == "recently_active", "gan.ipynb")
        server.start_running(busy, WORK)
        server.until(lambda kernel, _: kernel["phase"] == "reclaimed", "digits.ipynb", PATIENCE_SECONDS)
        row(page, "digits.ipynb", "reclaimed").wait_for()
        row(page, "gan.ipynb", "running").wait_for()
        page.wait_for_timeout(45_000)  # a chart needs a past
        command(page, "gpu-reclaim:refresh-status")
        take(page, folder, "sidebar.png")
        board.set_other_used((8 << 30) - 2500 * MiB)
        run_cell(page, 5)
        row(page, "digits.ipynb", "waiting").wait_for()
        take(page, folder, "waiting.png")
        board.set_other_used(0)
        row(page, "digits.ipynb", "resident").wait_for()
        command(page, "gpu-reclaim:show-log")
        page.locator(".jp-GpuReclaimLog tr[data-row]").filter(has_text="restored").first.get_by_role(
            "button"
        ).click()
        page.locator(".jp-GpuReclaimLog-episode li").first.wait_for()
        take(page, folder, "log.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
