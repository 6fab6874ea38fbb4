"""Kernels under test: the one of this environment, and an ipykernel 6 in one without torch and without this package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_rig import Rig
from simgpu import new_board, sim_board, simgpu_server  # noqa: F401


@pytest.fixture(scope="module", params=["ipykernel7", "ipykernel6"])
def python(request: pytest.FixtureRequest) -> str:
    """The interpreter of the kernels under test; every test that asks for it runs with both."""
    return request.getfixturevalue("ipykernel6") if request.param == "ipykernel6" else sys.executable


@pytest.fixture(scope="module")
def shared_rig(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One kernel for all tests of a module."""
    rig = Rig(python, tmp_path_factory.mktemp("k"))
    yield rig.start().use_bytes()
    rig.stop()


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    """The module's kernel, resident and idle, whatever the last test left."""
    shared_rig.hold.unlink(missing_ok=True)
    shared_rig.server.ask("resume")  # refused when it is resident
    assert shared_rig.kernel.run("mechanism.fails.clear()").status == "ok"
    assert shared_rig.phase() == "resident"
    return shared_rig


@pytest.fixture
def own_rig(python: str, tmp_path: Path) -> Iterator[Rig]:
    """A kernel of the test's own, for what ends it."""
    rig = Rig(python, tmp_path)
    yield rig.start().use_bytes()
    rig.stop()
