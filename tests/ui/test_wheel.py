"""The wheel, without the sources beside it. `make wheel-test` does the same with no node and no compiler in reach."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from installed_lab import InstalledLab, sidebar_of
from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]


def pip(*words: str | Path) -> None:
    """Run it; what it says is told where it fails."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, words)], check=True)


def test_a_built_wheel_alone_shows_the_sidebar(
    tmp_path: Path, chromium: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed from its wheel, JupyterLab shows the sidebar's tab, and the sidebar what the server says."""
    monkeypatch.setenv("SKIP_JUPYTER_BUILDER", "1")  # the environment of these tests has built it
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT)
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    # All else comes from here, but for what this environment has of us: it is editable, so only a path file names it.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (packages / "all_else.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = environment / "bin" / "python"
    pip("--python", python, "install", "--no-deps", *tmp_path.glob("*.whl"))
    application = Path(sys.prefix) / "share" / "jupyter" / "lab"
    lab = InstalledLab(
        [str(python), "-m", "jupyterlab"], tmp_path / "home", {"JUPYTERLAB_DIR": str(application)}
    )
    where = [str(python), "-I", "-c", "import jupyter_gpu_reclaim; print(jupyter_gpu_reclaim.__file__)"]
    assert subprocess.check_output(where, text=True).startswith(str(environment))
    assert "GPU" in sidebar_of(lab, chromium)
