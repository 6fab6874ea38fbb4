"""Judges what was found of Jupyter: the server, JupyterLab, kernels, cullers, the hub. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator

from jupyter_gpu_reclaim.doctor.facts import Facts, KernelFacts
from jupyter_gpu_reclaim.doctor.findings import Finding, fail, ok, warn

OLDEST_PYTHON = (3, 9)  # that the agent runs on
OLDEST_LAB = (4, 6)


def server(facts: Facts) -> Iterator[Finding]:
    """Is the extension switched on?"""
    found = facts.server
    if found.problem:
        yield fail(
            "server",
            f"Jupyter's configuration cannot be read: {found.problem}",
            "Correct that file; until then the server does not start with it either.",
        )
    elif found.enabled:
        yield ok("server", f"The server extension is enabled in {found.named_in}.")
    else:
        why = f"disabled in {found.named_in}" if found.named_in else "named in none of Jupyter's folders"
        yield fail(
            "server",
            f"The server extension is {why}: nothing is reclaimed.",
            "Set jupyter_gpu_reclaim to true there, then restart the server."
            if found.named_in
            else "Run `jupyter server extension enable jupyter_gpu_reclaim`, then restart the server.",
        )
    if facts.policy_problem:
        yield fail(
            "settings",
            f"The settings of GpuReclaim cannot be used: {facts.policy_problem}",
            "Correct them in jupyter_server_config; README lists each with its values.",
        )
    if found.gateway_url:
        yield fail(
            "conflicts",
            f"Kernels run behind the gateway {found.gateway_url}, out of this server's reach: none gets an agent.",
            "Install jupyter_gpu_reclaim in the server that starts the kernels, or unset GatewayClient.url.",
        )


def lab(facts: Facts) -> Iterator[Finding]:
    """Would JupyterLab show the sidebar, and is it of this version?"""
    found = facts.lab
    if found.jupyterlab is None:
        yield ok("labextension", "JupyterLab is not installed here, so there is no sidebar to look for.")
    elif _numbers(found.jupyterlab) < OLDEST_LAB:
        yield warn(
            "labextension",
            f"JupyterLab {found.jupyterlab} is older than 4.6, for which the sidebar is made.",
            'Run `pip install "jupyterlab>=4.6,<5"`; notebooks are reclaimed without the sidebar, too.',
        )
    elif found.labextension is None:
        yield fail(
            "labextension",
            "JupyterLab's part of this extension is missing: no sidebar, no warnings before a reclaim.",
            "Reinstall from the wheel: `pip install --force-reinstall --no-deps jupyter_gpu_reclaim`.",
        )
    elif found.disabled_in:
        yield warn(
            "labextension",
            f"JupyterLab's part of this extension is disabled in {found.disabled_in}: no sidebar, no warnings.",
            "Run `jupyter labextension enable jupyter-gpu-reclaim`, then reload the page.",
        )
    elif found.labextension != facts.version:
        yield fail(
            "labextension",
            f"The server's part is version {facts.version}, JupyterLab's part in {found.folder} is "
            f"{found.labextension}: the sidebar may show wrong things.",
            f"Remove {found.folder} and run `pip install --force-reinstall --no-deps jupyter_gpu_reclaim`.",
        )
    else:
        yield ok("labextension", f"JupyterLab {found.jupyterlab} has its part, version {found.labextension}.")


def kernels(facts: Facts) -> Iterator[Finding]:
    """Which kernels get an agent, and which have something to reclaim?"""
    if facts.startup_off_in:
        yield fail(
            "kernels",
            f"{facts.startup_off_in} switches exec_PYTHONSTARTUP off, by which the agent comes into a kernel.",
            "Remove that line; no kernel of this user can be reclaimed before.",
        )
    if not facts.kernels:
        yield fail(
            "kernels", "No kernelspec is installed.", "Run `pip install ipykernel` for a Python kernel."
        )
    for kernel in facts.kernels:
        yield _kernel(kernel, on_real_gpu=bool(facts.gpu.names) and not facts.gpu.simulated)


def _kernel(kernel: KernelFacts, on_real_gpu: bool) -> Finding:
    check = f"kernel {kernel.name}"
    if kernel.left_alone is not None:
        return warn(
            check,
            f"{kernel.left_alone} Its kernels are left alone.",
            "Nothing, if that is as meant; else use a Python kernelspec that starts on this machine.",
        )
    if kernel.interpreter is None:
        return warn(
            check,
            "Its command does not begin with a Python, so what it runs could not be asked.",
            "See that its command hands PYTHONSTARTUP and the environment on to IPython; then the agent comes along.",
        )
    if kernel.problem or kernel.python is None:
        return fail(
            check,
            f"{kernel.interpreter} does not answer ({kernel.problem or 'no version'}): its kernels cannot start.",
            f"Repair that environment, or run `jupyter kernelspec remove {kernel.name}`.",
        )
    if kernel.ipykernel is None:
        return fail(
            check,
            f"{kernel.interpreter} has no ipykernel: its kernels cannot start.",
            f"Run `{kernel.interpreter} -m pip install ipykernel`.",
        )
    if kernel.python < OLDEST_PYTHON:
        return warn(
            check,
            f"Its Python is {kernel.python[0]}.{kernel.python[1]}; the agent needs 3.9. Its kernels are left alone.",
            "Make the environment anew with Python 3.9 or newer.",
        )
    if kernel.torch is None:
        return warn(
            check,
            f"{kernel.interpreter} has no PyTorch: what else holds GPU memory there is seen but not moved.",
            f"Nothing, if it needs none; else run `{kernel.interpreter} -m pip install torch`.",
        )
    if on_real_gpu and kernel.torch.endswith("+cpu"):
        return warn(
            check,
            f"Its PyTorch {kernel.torch} is built without CUDA: its notebooks never use the GPU.",
            "Install a CUDA build of PyTorch there, if they are meant to.",
        )
    if kernel.keep_gpu is not None:
        return warn(
            check,
            f"It has keep-gpu {kernel.keep_gpu}, whose work on the GPU keeps a notebook from ever being idle.",
            "Uninstall keep-gpu there; a user keeps a notebook on the GPU from the sidebar, for a limited time.",
        )
    return ok(check, f"Gets the agent: Python {kernel.python[0]}.{kernel.python[1]}, PyTorch {kernel.torch}.")


def cullers(facts: Facts) -> Iterator[Finding]:
    """Who acts first on an idle notebook?"""
    found = facts.cullers
    ends = [
        (found.kernel_seconds, "MappingKernelManager.cull_idle_timeout", "the kernel is shut down"),
        (found.server_seconds, "ServerApp.shutdown_no_activity_timeout", "the server is shut down"),
        (found.hub_seconds or 0, "jupyterhub-idle-culler --timeout", "the server is stopped"),
    ]
    ends = sorted(end for end in ends if end[0] > 0)
    steps = [f"An idle notebook is reclaimed after {found.idle_after_seconds:g} s (idle_after_seconds)"]
    steps += [f"after {seconds:g} s {what} ({name})" for seconds, name, what in ends]
    order = f"{'; '.join(steps)}."
    if found.kernel_seconds > 0 and not found.kernel_connected:
        order += " A kernel that is open in a browser is not shut down (cull_connected is off)."
    early = [name for seconds, name, _ in ends if seconds <= found.idle_after_seconds]
    if early:
        yield warn(
            "cullers",
            f"{', '.join(early)} acts no later than the reclaim, and what the notebook holds is lost. {order}",
            f"Set it well above {found.idle_after_seconds:g} s, or idle_after_seconds lower.",
        )
    else:
        yield ok("cullers", order)


def hub(facts: Facts) -> Iterator[Finding]:
    """Is the hub there, where this server belongs to one?"""
    if not facts.hub_url:
        yield ok("hub", "This is no server of a JupyterHub.")
    elif facts.hub_problem is None:
        yield ok("hub", f"The hub answers at {facts.hub_url}.")
    else:
        yield warn(
            "hub",
            f"The hub at {facts.hub_url} cannot be reached ({facts.hub_problem}). Reclaims and restores go on without.",
            "Check the hub, the proxy and the network policy between this server and the hub.",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:2])
