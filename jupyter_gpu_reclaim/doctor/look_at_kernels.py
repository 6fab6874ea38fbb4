"""Asks each kernelspec's own interpreter what it has. No kernel is started, and no torch is imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.provisioning import KernelProvisionerFactory

from jupyter_gpu_reclaim.doctor.facts import KernelFacts
from jupyter_gpu_reclaim.server.injection import why_left_alone

PATIENCE_SECONDS = 20.0
QUESTION = """
import json, sys
try:
    from importlib.metadata import PackageNotFoundError, version
except ImportError:
    version, PackageNotFoundError = None, Exception
def of(name):
    try:
        return version(name) if version else None
    except PackageNotFoundError:
        return None
said = {name: of(name.replace("_", "-")) for name in ("ipykernel", "torch", "keep_gpu")}
print(json.dumps(dict(said, python=sys.version_info[:2])))
"""


def kernels() -> tuple[KernelFacts, ...]:
    """Every kernelspec that this user's server offers, by name."""
    manager = KernelSpecManager()
    found = []
    for name in sorted(manager.find_kernel_specs()):
        try:
            found.append(_kernel(name, manager.get_kernel_spec(name)))
        except (NoSuchKernel, ValueError, OSError) as error:
            found.append(KernelFacts(name=name, interpreter="its kernel.json", problem=str(error)))
    return tuple(found)


def _kernel(name: str, spec: KernelSpec) -> KernelFacts:
    try:
        provisioner = KernelProvisionerFactory.instance().create_provisioner_instance("doctor", spec, None)
    except Exception as error:  # a provisioner that is not installed, or whatever a stranger's raises
        return KernelFacts(name=name, interpreter="its provisioner", problem=str(error))
    reason = why_left_alone(provisioner)
    if reason is not None:
        return KernelFacts(name=name, left_alone=reason)
    interpreter = _interpreter(spec)
    if interpreter is None:
        return KernelFacts(name=name)
    return _asked(name, interpreter)


def _interpreter(spec: KernelSpec) -> str | None:
    """The Python that the kernelspec's command begins with, as jupyter_client takes it."""
    first = spec.argv[0] if spec.argv else ""
    own = ("python", f"python{sys.version_info[0]}", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    if first in own:
        return sys.executable
    return first if Path(first).name.startswith(("python", "pypy")) else None


def _asked(name: str, interpreter: str) -> KernelFacts:
    if shutil.which(interpreter) is None:
        return KernelFacts(name=name, interpreter=interpreter, problem="there is no such program")
    try:
        done = subprocess.run(
            [interpreter, "-c", QUESTION],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        said = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"it ends with {error.returncode}"])[-1]
        return KernelFacts(name=name, interpreter=interpreter, problem=last)
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return KernelFacts(name=name, interpreter=interpreter, problem=str(error))
    major, minor = said.pop("python")
    return KernelFacts(name=name, interpreter=interpreter, python=(major, minor), **said)
