"""One JupyterHub for all tests of a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from documented_hub import BUILT_ONCE, as_documented
from playwright.sync_api import Browser, Error, sync_playwright
from real_hub import RealHub, free_ports, missing

from jupyter_gpu_reclaim.bench.log import postgresql
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import environment

GPU_BYTES, CONTEXT_BYTES = 256 * MiB, 16 * MiB  # room for the data of one of two users, and both contexts
SETTINGS = {
    "GpuReclaim.pressure_idle_after_seconds": 0,
    "GpuReclaim.cooldown_seconds": 0,
    "GpuReclaim.max_moving_share": 0,  # cells take no time here, so nearly all of it is spent moving
    "GpuReclaim.min_reclaim_bytes": 0,
    "GpuReclaim.host_reserve_bytes": 0,
    "GpuReclaim.restore_timeout_seconds": 0,  # whoever is forgotten hangs, and the test with them
    "GpuReclaim.tick_seconds": 0.2,
    "GpuReclaim.sample_seconds": 0.2,
}


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    """Where all that is asked of the hub runs."""
    with start_blocking_portal() as portal:
        yield portal


POLICIES = "rules: []\n"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, portal: BlockingPortal) -> Iterator[RealHub]:
    """A hub with our service as docs/operators.md has it, its database and the service's on one PostgreSQL."""
    for problem in (missing(), postgresql.missing()):
        if problem:
            pytest.skip(f"a hub cannot be tried here: {problem}")
    folder: Path = tmp_path_factory.mktemp("hub")
    database = postgresql.PostgresqlServer()
    try:
        database.start()
        with Board.create(
            folder / "board", [("GPU", GPU_BYTES)], context_bytes=CONTEXT_BYTES, poison=True
        ) as board:
            (port,) = free_ports(1)
            hub = RealHub(
                folder / "hub",
                SETTINGS,
                {**environment(board.path), **BUILT_ONCE},
                db_url=database.url(),
                more_config=as_documented(folder, port, database.url(), POLICIES),
                port=port,
            )
            with portal.wrap_async_context_manager(hub):
                yield hub
    finally:
        database.stop()
        database.remove()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real browser without a window."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to start as root with one
    with sync_playwright() as playwright:
        try:
            path, flags = shutil.which("chromium"), ["--disable-gpu", "--no-first-run", *sandbox]
            browser = playwright.chromium.launch(executable_path=path, args=flags)
        except Error as error:
            pytest.skip(f"no Chromium here (apt-get install chromium): {error}")
        yield browser
        browser.close()
