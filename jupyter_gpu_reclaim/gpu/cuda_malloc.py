"""Builds the library that lets PyTorch's allocations on CUDA wait for room: opt-in, by a kernel's environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "agent" / "native" / "wait_in_cuda_malloc.c"
LIBRARY = "libjupyter_gpu_reclaim_cuda.so"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-fPIC", "-shared", "-pthread")


class CannotBuild(RuntimeError):
    """The library cannot be built here; the message is one line and names the cure."""


def build(folder: Path) -> dict[str, str]:
    """Build the library in `folder`; what a kernel's environment then needs. Raises `CannotBuild`.

    A library that is there is replaced in one step: kernels that run with it are not disturbed.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise CannotBuild("a C compiler is needed: install gcc (apt install gcc, or conda install gcc)")
    library = folder.resolve() / LIBRARY
    fresh = library.with_name(f"{LIBRARY}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        command = [compiler, *FLAGS, "-o", str(fresh), str(SOURCE), "-ldl"]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        if outcome.returncode:
            raise CannotBuild(f"{compiler} could not build it: {outcome.stderr.strip()}")
        fresh.rename(library)
    except OSError as error:
        raise CannotBuild(
            f"{folder} cannot be written to ({error.strerror}); name another --folder"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)
    return {"LD_PRELOAD": str(library), "PYTORCH_CUDA_ALLOC_CONF": "release_lock_on_cudamalloc:True"}
