"""One JupyterLab on a simulated GPU, and one Chromium, for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import browser
import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from jupyter_gpu_reclaim.demo.play import HERE
from jupyter_gpu_reclaim.sim.board import Board, MiB

GPU_BYTES, CONTEXT_BYTES = 256 * MiB, 16 * MiB
IDLE_AFTER_SECONDS = 3
FILL = "import torch\nx = torch.arange(16 * 2**20, dtype=torch.float32).to('simgpu')"
CHECK = "print(torch.equal(x.cpu(), torch.arange(16 * 2**20, dtype=torch.float32)))"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """One GPU of 256 MiB; freed memory is poisoned."""
    path = tmp_path_factory.mktemp("board") / "board"
    with Board.create(path, [("GPU", GPU_BYTES)], context_bytes=CONTEXT_BYTES, poison=True) as board:
        yield board


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, board: Board) -> Iterator[browser.Lab]:
    """A server whose notebooks are reclaimed after `IDLE_AFTER_SECONDS`: the demo's, and two that hold 64 MiB."""
    with browser.lab(
        tmp_path_factory.mktemp("lab"), board, {"GpuReclaim.idle_after_seconds": IDLE_AFTER_SECONDS}
    ) as lab:
        (lab.server.folder / "digits.ipynb").write_bytes((HERE / "digits.ipynb").read_bytes())
        lab.notebook("fill.ipynb", [FILL, CHECK])
        lab.notebook("classic.ipynb", [FILL, CHECK])
        yield lab


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real browser without a window."""
    with sync_playwright() as playwright:
        try:
            started = browser.chromium(playwright)
        except Error as error:
            pytest.skip(
                f"no Chromium here (apt-get install chromium, or playwright install chromium): {error}"
            )
        yield started
        started.close()


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """In place of pytest_jupyter's: the server has a process of its own, and playwright's loop runs in this one."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """In place of pytest_jupyter's, for the same reason."""
