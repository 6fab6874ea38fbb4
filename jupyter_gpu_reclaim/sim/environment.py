"""How a process comes to see the simulated GPU: by its environment, or (NVML only) loaded into the running process."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from .build import nvml_library

BOARD_VARIABLE = "JUPYTER_GPU_RECLAIM_SIM_BOARD"  # path of the board file; unset: no simulated GPU anywhere


def environment(board: str | os.PathLike[str]) -> dict[str, str]:
    """What to add to a new process's environment: the board, and the simulated NVML before any real one.

    Builds the NVML library if needed; raises `build.CannotBuild`.
    """
    folders = [str(nvml_library().parent), *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    unique = dict.fromkeys(folder for folder in folders if folder)
    return {BOARD_VARIABLE: str(Path(board).resolve()), "LD_LIBRARY_PATH": ":".join(unique)}


def preload_nvml(board: str | os.PathLike[str] | None = None) -> None:
    """Let pynvml in this process find the simulated NVML, showing `board`. Call it before the first nvmlInit.

    The dynamic linker then takes the loaded library for "libnvidia-ml.so.1". A later call with another board counts
    from the next nvmlInit that is not nested. With None it is the environment's board, read at nvmlInit; without one,
    too, nvmlInit says DriverNotLoaded.
    """
    library = ctypes.CDLL(str(nvml_library()), mode=ctypes.RTLD_GLOBAL)
    library.simgpu_nvml_board(None if board is None else os.fsencode(Path(board).resolve()))


def bootstrap_code() -> str:
    """Python source that registers the torch device where jupyter_gpu_reclaim is not installed (other environments)."""
    folder = str(Path(__file__).resolve().parent)
    return (
        "import importlib, importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('simgpu_package', {folder + '/__init__.py'!r}, "
        f"submodule_search_locations=[{folder!r}])\n"
        "sys.modules['simgpu_package'] = importlib.util.module_from_spec(spec)\n"
        "importlib.import_module('simgpu_package.torch_backend').autoload()\n"
    )
