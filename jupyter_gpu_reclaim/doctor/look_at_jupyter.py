"""Finds out what this user's Jupyter is configured to do. Reads files and asks the hub; changes nothing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from jupyter_core.application import JupyterApp
from jupyter_core.paths import jupyter_config_path, jupyter_path
from traitlets.config import Config, Configurable
from traitlets.config.loader import ConfigFileNotFound, PyFileConfigLoader

from jupyter_gpu_reclaim.config import PolicyTraits
from jupyter_gpu_reclaim.doctor.facts import CullerFacts, LabFacts, ServerFacts

EXTENSION, LABEXTENSION = "jupyter_gpu_reclaim", "jupyter-gpu-reclaim"
HUB_PATIENCE_SECONDS = 3.0
KERNEL_MANAGERS = ("MappingKernelManager", "AsyncMappingKernelManager")
IDLE_CULLER = "jupyterhub_idle_culler"
IDLE_CULLER_DEFAULT_SECONDS = 600.0


class _Application(JupyterApp):
    """Reads the configuration files as the server does; one that fails is an error, not a warning."""

    raise_config_file_errors = True


class GpuReclaim(PolicyTraits, Configurable):
    """The server extension's settings under its own name, without the server."""


def configuration() -> tuple[Config, str]:
    """All that the server reads from files, and what went wrong with it ("" if nothing)."""
    found = Config()
    for name in ("jupyter_server_config", "jupyter_gpu_reclaim_config"):
        app = _Application(config_file_name=name)
        try:
            app.load_config_file()
        except Exception as error:  # configuration files are programs: they may raise anything
            return found, f"{name}: {type(error).__name__}: {error}"
        found.merge(app.config)
    return found, ""


def settings(config: Config) -> tuple[PolicyTraits, str]:
    """Our settings as configured, or the defaults and why they cannot be used."""
    try:
        return GpuReclaim(config=config), ""
    except Exception as error:  # a validator's TraitError, or whatever a wrong type made it raise
        return GpuReclaim(), str(error)


def server(config: Config, problem: str) -> ServerFacts:
    """Whether the server loads us, and who said so last."""
    enabled, named_in = None, ""
    for file, content in _json_files():
        named = content.get("ServerApp", {}).get("jpserver_extensions", {})
        if EXTENSION in named:
            enabled, named_in = bool(named[EXTENSION]), str(file)
    named = config.ServerApp.get("jpserver_extensions", {})
    if EXTENSION in named:
        enabled, named_in = bool(named[EXTENSION]), named_in or "jupyter_server_config"
        named_in = _server_config_file() or named_in
    return ServerFacts(
        enabled=enabled,
        named_in=named_in,
        gateway_url=str(config.GatewayClient.get("url", "") or os.environ.get("JUPYTER_GATEWAY_URL", "")),
        problem=problem,
    )


def lab() -> LabFacts:
    """What JupyterLab of this environment has of us."""
    folder = next(filter(Path.is_dir, (Path(p) / LABEXTENSION for p in jupyter_path("labextensions"))), None)
    package = _json(folder / "package.json") if folder is not None else {}
    return LabFacts(
        jupyterlab=_version("jupyterlab"),
        labextension=package.get("version"),
        folder=str(folder or ""),
        disabled_in=_disabled_in(),
    )


def startup_off_in() -> str:
    """The IPython configuration file that keeps kernels from running PYTHONSTARTUP, or ""."""
    ipython = Path(os.environ.get("IPYTHONDIR") or Path.home() / ".ipython")
    for name in ("ipython_kernel_config", "ipython_config"):
        for folder in (ipython / "profile_default", Path("/etc/ipython"), Path("/usr/local/etc/ipython")):
            try:
                config = PyFileConfigLoader(f"{name}.py", str(folder)).load_config()
            except ConfigFileNotFound:
                continue
            except Exception:  # IPython tells the user itself when it starts
                continue
            for section in ("InteractiveShellApp", "IPKernelApp"):
                if config[section].get("exec_PYTHONSTARTUP", True) is False:
                    return str(folder / f"{name}.py")
    return ""


def cullers(config: Config, idle_after_seconds: float) -> CullerFacts:
    """Who else ends idle kernels and servers."""
    kernels = Config()
    for name in KERNEL_MANAGERS:
        kernels.merge(config[name])
    return CullerFacts(
        idle_after_seconds=idle_after_seconds,
        kernel_seconds=float(kernels.get("cull_idle_timeout", 0)),
        kernel_connected=bool(kernels.get("cull_connected", False)),
        server_seconds=float(config.ServerApp.get("shutdown_no_activity_timeout", 0)),
        hub_seconds=_idle_culler_seconds(),
    )


def hub() -> tuple[str, str | None]:
    """The hub's API address ("" where this is no server of one), and why it cannot be reached."""
    url = os.environ.get("JUPYTERHUB_API_URL", "")
    if not url:
        return "", None
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/", timeout=HUB_PATIENCE_SECONDS):
            return url, None
    except urllib.error.HTTPError as error:
        return url, None if error.code < 500 else f"it answers {error.code}"
    except (OSError, ValueError) as error:
        return url, str(getattr(error, "reason", error))


def _json_files() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The server's JSON configuration, the file that has the last word last."""
    for folder in map(Path, reversed(jupyter_config_path())):
        for file in sorted((folder / "jupyter_server_config.d").glob("*.json")):
            yield file, _json(file)


def _server_config_file() -> str:
    """The file of this user's or the machine's that says which extensions the server loads."""
    for folder in map(Path, jupyter_config_path()):
        for name in ("jupyter_server_config.py", "jupyter_server_config.json"):
            file = folder / name
            if file.is_file() and EXTENSION in file.read_text():
                return str(file)
    return ""


def _disabled_in() -> str:
    """The page configuration that switches our labextension off; the first that names it has the word."""
    folders = [Path(p) / "labconfig" for p in jupyter_config_path()]
    folders += [Path(p) / "lab" / "settings" for p in jupyter_path()]
    for file in (folder / "page_config.json" for folder in folders):
        disabled = _json(file).get("disabledExtensions", {})
        if isinstance(disabled, list):
            disabled = dict.fromkeys(disabled, True)
        for name, is_off in disabled.items():
            if name.split(":")[0] == LABEXTENSION:
                return str(file) if is_off else ""
    return ""


def _idle_culler_seconds() -> float | None:
    """The timeout of a jupyterhub-idle-culler that runs on this machine and that this user may see."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(IDLE_CULLER in word.replace("-", "_") for word in words[:3]):
            return _option(words, "--timeout", IDLE_CULLER_DEFAULT_SECONDS)
    return None


def _option(words: list[str], name: str, default: float) -> float:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        value = word.removeprefix(f"{name}=") if word.startswith(f"{name}=") else None
        value = following if word == name else value
        if value is not None:
            try:
                return float(value)
            except ValueError:
                return default
    return default


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _json(file: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is not there or not to be read, as Jupyter itself takes it."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
