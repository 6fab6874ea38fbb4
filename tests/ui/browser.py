"""Chromium in front of a real JupyterLab (or Notebook 7) on the simulated GPU, for tests and for the documentation."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from anyio.from_thread import BlockingPortal, start_blocking_portal
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Locator, Page, Playwright

from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook
from jupyter_gpu_reclaim.sim.board import Board
from jupyter_gpu_reclaim.sim.environment import environment

QUIET = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 60_000  # generous: a busy machine must not fail what works
DEADLINE_SECONDS = 60
SETTINGS = {
    "GpuReclaim.idle_after_seconds": 3600,
    "GpuReclaim.pressure_idle_after_seconds": 0,
    "GpuReclaim.cooldown_seconds": 0,
    "GpuReclaim.min_reclaim_bytes": 0,
    "GpuReclaim.host_reserve_bytes": 0,
    "GpuReclaim.tick_seconds": 0.2,
    "GpuReclaim.sample_seconds": 0.2,
}
KERNEL_IS_IDLE = """async () => {
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    if (!context) { return false; }
    await context.ready;
    return context.session?.kernel?.status === 'idle';
}"""


class Lab:
    """A server with JupyterLab and Notebook 7, for tests that are plain functions."""

    def __init__(self, server: JupyterServer, portal: BlockingPortal, board: Board) -> None:
        self.server = server
        self.board = board
        self._portal = portal

    def status(self) -> dict[str, Any]:
        """What GET status says."""
        return self._portal.call(self.server.status)

    def until(
        self,
        condition: Callable[[dict[str, Any], datetime], Any],
        notebook: str,
        seconds: float = DEADLINE_SECONDS,
    ) -> dict[str, Any]:
        """The row of a notebook's kernel in the status, once `condition(row, taken_at)` holds for it."""
        row: dict[str, Any] | None = None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.status()
            row = next((kernel for kernel in status["kernels"] if kernel["label"] == notebook), None)
            if row is not None and condition(row, datetime.fromisoformat(status["taken_at"])):
                return row
            time.sleep(0.05)  # the status has no push
        raise AssertionError(f"it did not come about; last: {row}\n{self.server.log_tail(40)}")

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """One REST call, with its path below the server's base URL."""
        return self._portal.call(self.server.request, method, path, body)

    def start(self, name: str, code: str) -> OpenNotebook:
        """A notebook nobody looks at, in whose kernel this code has run."""
        notebook = self._portal.call(self.server.open_notebook, name)
        self._portal.call(notebook.run, code)
        return notebook

    def start_running(self, notebook: OpenNotebook, code: str) -> None:
        """Have its kernel run this code, and do not wait for it."""
        self._portal.start_task_soon(notebook.run, code)

    def notebook(self, name: str, cells: Sequence[str]) -> None:
        """Lay a notebook with these code cells in the server's folder."""
        body = new_notebook(
            cells=[new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(body, self.server.folder / name)


@contextmanager
def lab(folder: Path, board: Board, settings: Mapping[str, Any] | None = None) -> Iterator[Lab]:
    """JupyterLab and Notebook 7 in `folder`, which sees `board`, with no news over what is shown."""
    page_config = folder / "config" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True)
    page_config.write_text(
        json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
    )
    extensions = ("jupyter_gpu_reclaim", "jupyterlab", "notebook", "notebook_shim")
    config = {
        **SETTINGS,
        "ServerApp.jpserver_extensions": repr(dict.fromkeys(extensions, True)),
        "LabApp.expose_app_in_browser": True,
        "JupyterNotebookApp.expose_app_in_browser": True,
        **(settings or {}),
    }
    folders = {f"JUPYTERLAB_{name}_DIR": str(folder / name) for name in ("SETTINGS", "WORKSPACES")}
    server = JupyterServer(folder, config, {**environment(board.path), **folders})
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(server):
        yield Lab(server, portal, board)


def chromium(playwright: Playwright) -> Browser:
    """Debian's Chromium where it is installed, else playwright's own."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to start as root with one
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*QUIET, *sandbox])


def open_page(
    browser: Browser,
    lab: Lab,
    path: str,
    size: tuple[int, int] = (1280, 800),
    prepare: Callable[[Page], None] = lambda page: None,
) -> Page:
    """A page at `path` below the server's base URL, once JupyterLab or Notebook is there; `prepare` has it empty."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(PATIENCE_MS)
    prepare(page)
    page.goto(f"{lab.server.url}/{path}{'&' if '?' in path else '?'}token={lab.server.token}")
    page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")
    return page


def command(page: Page, name: str, **arguments: Any) -> None:
    """Run one of the page's commands, as the palette does."""
    script = "async ([name, args]) => { await window.jupyterapp.commands.execute(name, args); }"
    page.evaluate(script, [name, arguments])


def show_sidebar(page: Page) -> None:
    """Open our sidebar."""
    command(page, "gpu-reclaim:show-sidebar")
    page.wait_for_selector(".jp-GpuReclaim-panel")


def wait_for_kernel(page: Page) -> None:
    """Wait until the notebook in front has a kernel that is idle; before that, Shift+Enter is lost."""
    page.wait_for_function(KERNEL_IS_IDLE)


def open_notebook(page: Page, name: str) -> None:
    """Open it in front, with its kernel ready."""
    command(page, "docmanager:open", path=name)
    page.wait_for_function("name => window.jupyterapp.shell.currentWidget?.context?.path === name", arg=name)
    wait_for_kernel(page)


def run_cell(page: Page, index: int) -> Locator:
    """Run the cell in place `index` of the notebook in front by keyboard. Returns its output at once, empty or not."""
    cell = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell").nth(index)
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    return cell.locator(".jp-OutputArea-output")


def row(page: Page, notebook: str, state: str = "") -> Locator:
    """The sidebar's row of a notebook, in that state where one is given."""
    which = f"[data-state={state}]" if state else ""
    return page.locator(f".jp-GpuReclaim-row{which}").filter(has_text=notebook)
