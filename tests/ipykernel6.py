"""An ipykernel 6 in an environment without torch and without this package, as many users have it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

VARIABLE = "JUPYTER_GPU_RECLAIM_TEST_IPYKERNEL6"  # an interpreter that has it; else one is made, once


@pytest.fixture(scope="session")
def ipykernel6(pytestconfig: pytest.Config) -> str:
    """An interpreter with ipykernel 6.31, without torch and without this package."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    folder = Path(pytestconfig.cache.mkdir("ipykernel6"))
    python = folder / "bin" / "python"
    complete = folder / "complete"
    with open(folder.parent / "ipykernel6.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes the first makes it, the others wait
        if not complete.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            wanted = ["ipykernel==6.31.0", "ipywidgets>=8.1,<9"]
            subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
            complete.touch()
    return str(python)
