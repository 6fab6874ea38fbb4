"""One JupyterHub for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from real_hub import RealHub, missing, snippet

from jupyter_gpu_reclaim.bench.log import postgresql
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.build import cache_folder
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


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, portal: BlockingPortal) -> Iterator[RealHub]:
    """A hub configured as docs/operators.md has it, but for the directory that servers share."""
    for problem in (missing(), postgresql.missing()):
        if problem:
            pytest.skip(f"a hub cannot be tried here: {problem}")
    folder: Path = tmp_path_factory.mktemp("hub")
    (folder / "node").mkdir()
    (folder / "node").chmod(0o1777)
    config = snippet("JupyterHub on one machine", "python")
    assert config.count("/run/jupyter_gpu_reclaim") == 1
    config = config.replace("/run/jupyter_gpu_reclaim", str(folder / "node"))
    database = postgresql.PostgresqlServer()
    try:
        database.start()
        with Board.create(
            folder / "board", [("GPU", GPU_BYTES)], context_bytes=CONTEXT_BYTES, poison=True
        ) as board:
            hub = RealHub(
                folder / "hub",
                SETTINGS,
                {**environment(board.path), "XDG_CACHE_HOME": str(cache_folder().parents[1])},  # built once
                db_url=database.url(),
                more_config=config,
            )
            with portal.wrap_async_context_manager(hub):
                yield hub
    finally:
        database.stop()
        database.remove()


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """In place of pytest_jupyter's: what is asked of the hub runs in the portal."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """In place of pytest_jupyter's, for the same reason."""
