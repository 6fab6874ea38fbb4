"""A directory as several users of a machine share it, and processes that run as these users."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("contract.pressure_board_contract")

from simgpu import simgpu_server  # noqa: E402, F401

from jupyter_gpu_reclaim.node import NodeBoard  # noqa: E402


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are private."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-reclaim-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def node_dir(open_folder: Path) -> Path:
    """The directory, as an administrator makes it."""
    path = open_folder / "node"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.fixture
def new_board(node_dir: Path) -> Callable[[], NodeBoard]:
    """Makes the boards of servers on this machine. A lock that were not given back would show as a problem."""
    return lambda: NodeBoard(node_dir, lock_patience=60)


@pytest.fixture
def users() -> tuple[int, int, int]:
    """Three users' ids. Only root can become others, so for anybody else these tests are skipped."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to run processes as three other users")
    return 20001, 20002, 20003
