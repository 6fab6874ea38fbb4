"""Chromium in front of a real JupyterLab (or Notebook 7) on the simulated GPU, for tests and for the documentation."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright
from running_server import RunningServer

from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.environment import environment

QUIET = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 30_000
KERNEL_IS_IDLE = """async () => {
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    if (!context) { return false; }
    await context.ready;
    return context.session?.kernel?.status === 'idle';
}"""


@contextmanager
def lab(folder: Path, board: Board, settings: Mapping[str, Any] | None = None) -> Iterator[RunningServer]:
    """JupyterLab and Notebook 7 in `folder`, which sees `board`, with nothing in a corner that covers what is shown."""
    page_config = folder / "config" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True)
    page_config.write_text(json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
    extensions = {"jupyter_gpu_reclaim": True, "jupyterlab": True, "notebook": True, "notebook_shim": True}
    config = {
        "ServerApp.jpserver_extensions": repr(extensions),
        "LabApp.expose_app_in_browser": True,
        "JupyterNotebookApp.expose_app_in_browser": True,
        **(settings or {}),
    }
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "lab-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "lab-workspaces"),
    }
    with RunningServer(folder, config, {**environment(board.path), **folders}) as server:
        yield server


def chromium(playwright: Playwright) -> Browser:
    """Debian's Chromium where it is installed, else playwright's own."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to start as root with one
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*QUIET, *sandbox])


def open_page(browser: Browser, server: RunningServer, path: str, width: int = 1280, height: int = 800) -> Page:
    """A page at `path` below the server's base URL, once JupyterLab or Notebook is there."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{server.jupyter.url}/{path}?token={server.jupyter.token}")
    page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
    return page


def show_sidebar(page: Page) -> None:
    """Open our sidebar by its command, as the palette does."""
    page.evaluate("() => window.jupyterapp.commands.execute('gpu-reclaim:show-sidebar')")
    page.wait_for_selector(".jp-GpuReclaim-panel")


def wait_for_kernel(page: Page) -> None:
    """Wait until the notebook in front has a kernel that is idle; before that, Shift+Enter is lost."""
    page.wait_for_function(KERNEL_IS_IDLE)


def run_cell(page: Page, index: int) -> None:
    """Run the code cell in place `index` by keyboard, and return at once."""
    page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").nth(index).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
