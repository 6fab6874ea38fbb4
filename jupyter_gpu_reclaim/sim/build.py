"""Builds the simulated GPU's two libraries from csrc/, once, into the user's cache: g++ and torch needed.

`python -m jupyter_gpu_reclaim.sim.build` builds both ahead of time. The torch device is tied to the torch version, not
to the Python version; both live in folders named after everything that went into them, so nothing is ever overwritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "csrc"
# What an allocator that has run out says to the agent, in the agent's words; a header for every allocator.
ASK_FOR_ROOM = SOURCES.parents[1] / "agent" / "native" / "ask_for_room.h"
NVML_NAME, TORCH_DEVICE_NAME = "libnvidia-ml.so.1", "libsimgpu.so"


Report = Callable[[str], None]


class CannotBuild(RuntimeError):
    """The simulated GPU cannot be built here; the message is one line and names the cure."""


def _to_stderr(line: str) -> None:
    print(f"jupyter_gpu_reclaim: {line}", file=sys.stderr, flush=True)


def ensure_built(report: Report = _to_stderr) -> None:
    """Build both libraries unless they are there; `report` gets a line on what takes time. Raises `CannotBuild`."""
    nvml_library(report)
    torch_device_library(report)


def nvml_library(report: Report = _to_stderr) -> Path:
    """The path of the simulated libnvidia-ml.so.1, built if it is not there yet. Raises `CannotBuild`."""
    flags = f"-x c -O2 -fPIC -shared -fvisibility=hidden -pthread -Wl,-soname,{NVML_NAME}".split()
    return _built("nvml", NVML_NAME, [*flags, str(SOURCES / "nvml.c")], report, "about 1 second")


def torch_device_library(report: Report = _to_stderr) -> Path:
    """The path of the torch device for the torch of this interpreter, built if not there yet. Raises `CannotBuild`.

    Does not import torch: it is also asked for from within `import torch`.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise CannotBuild("the simulated torch device needs PyTorch in this environment: pip install torch")
    torch = Path(next(iter(spec.submodule_search_locations)))
    version = importlib.metadata.version("torch")
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-D_GLIBCXX_USE_CXX11_ABI={_cxx11_abi()}"]
    includes = [f"-I{ASK_FOR_ROOM.parent}", f"-I{torch}/include", f"-I{torch}/include/torch/csrc/api/include"]
    libraries = [f"-L{torch}/lib", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch}/lib"]
    arguments = [*flags, str(SOURCES / "torch_device.cpp"), *includes, *libraries]
    return _built(f"torch-{version}", TORCH_DEVICE_NAME, arguments, report, "10 to 30 seconds, once")


def _cxx11_abi() -> int:
    """The C++ ABI torch was built with; wheels before 2.7 had the old one."""
    torch = sys.modules.get("torch")
    return int(getattr(getattr(torch, "_C", None), "_GLIBCXX_USE_CXX11_ABI", True))


def cache_folder() -> Path:
    """Where the libraries are kept: $XDG_CACHE_HOME or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "jupyter_gpu_reclaim" / "sim"


def _source_hash(arguments: list[str]) -> str:
    digest = hashlib.sha256("\0".join(arguments).encode())
    for path in sorted([*SOURCES.iterdir(), ASK_FOR_ROOM]):
        if path.suffix in (".h", ".hpp", ".cpp", ".c"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _built(label: str, name: str, arguments: list[str], report: Report, duration: str) -> Path:
    """Compile to <cache>/<label>-<hash>-<machine>/<name> unless it is there. Others may do the same at once."""
    folder = cache_folder() / f"{label}-{_source_hash(arguments)}-{platform.machine()}"
    library = folder / name
    if library.exists():
        return library
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.parent / f"{folder.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the second comer waits and finds the library
            if not library.exists():
                compiler = _compiler()
                report(f"building {name} of the simulated GPU ({duration}) …")
                _compile(folder, name, [compiler, *arguments])
    except OSError as error:
        raise CannotBuild(
            f"the simulated GPU cannot be built in {folder.parent} ({error.strerror}): "
            "set XDG_CACHE_HOME to a folder that can be written to"
        ) from error
    return library


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "g++", "c++"):
        if path := shutil.which(name or ""):
            return path
    raise CannotBuild(
        "the simulated GPU needs a C++ compiler to be built: install g++ (apt install g++, or conda install gxx)"
    )


def _compile(folder: Path, name: str, command: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.building-") as scratch:
        done = Path(scratch) / "done"
        done.mkdir()
        command = [*command, "-o", str(done / name)]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        if outcome.returncode:
            log = folder.parent / f"{folder.name}.log"
            log.write_text(" ".join(command) + "\n" + outcome.stderr)
            raise CannotBuild(
                f"building {name} of the simulated GPU failed (is g++ 10 or newer? is this torch as recent as 2.13?); "
                f"the compiler's messages are in {log}"
            )
        done.rename(folder)


if __name__ == "__main__":
    ensure_built()
