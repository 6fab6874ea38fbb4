"""JupyterLab of an environment in which our wheel was installed, before a real browser.

Run as `python installed_lab.py ENVIRONMENT` it prints what the sidebar shows, and fails where it shows nothing true;
the browser's driver then lives in this Python, not in that environment.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import browser
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import Browser, expect, sync_playwright

from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer

TAB = ".jp-SideBar .lm-TabBar-tab[title='GPU reclaim']"
PANEL = ".jp-GpuReclaim-panel"


class InstalledLab(JupyterServer):
    """Started by `command`, as a person types it; what it loads is what that environment's files enable."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder, environment={"HOME": str(folder), **environment})
        self._typed = command

    def _command(self) -> list[str]:
        settings = [word for word in super()._command() if word.startswith("--")]
        return [*self._typed, *(word for word in settings if "jpserver_extensions" not in word)]


def sidebar_of(lab: InstalledLab, chromium: Browser) -> str:
    """What the sidebar of a fresh server says, opened by a click on its tab. Raises where tab or words are missing.

    That no kernel runs comes from the server: its REST interface answered, in a form that the page understands.
    """
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(lab):
        page = chromium.new_page()
        page.set_default_timeout(browser.PATIENCE_MS)
        page.goto(f"{lab.url}/lab?token={lab.token}")
        page.locator(TAB).click()
        expect(page.locator(PANEL)).to_contain_text("No kernel runs.", timeout=browser.PATIENCE_MS)
        said = page.locator(PANEL).inner_text()
        page.close()
    return said


def main(environment: Path) -> None:
    """`jupyter lab` as typed in `environment`, with its programs alone in reach."""
    programs = environment / "bin"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab = InstalledLab([str(programs / "jupyter"), "lab"], Path(folder), {"PATH": str(programs)})
        chromium = browser.chromium(playwright)
        print(sidebar_of(lab, chromium))
        chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
