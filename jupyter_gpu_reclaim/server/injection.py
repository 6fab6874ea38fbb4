"""Puts the agent into every local Python kernel: two environment variables more, and nothing else is touched.

IPython runs the file that PYTHONSTARTUP names, whatever environment the kernel lives in. What was tried and failed: an
`--ext` argument overrides the user's own list of extensions, and a default provisioner of ours misses the kernelspecs
that name theirs. Wrapping the one factory that makes every provisioner misses none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from logging import LoggerAdapter
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import KernelProvisionerBase, KernelProvisionerFactory, LocalProvisioner

from jupyter_gpu_reclaim.agent import protocol
from jupyter_gpu_reclaim.server.link import AgentLinks

STARTUP = "PYTHONSTARTUP"


class Injection:
    """Wraps the provisioner factory while installed. A failure in here never keeps a kernel from starting."""

    def __init__(
        self, factory: KernelProvisionerFactory, links: AgentLinks, startup_file: Path, log: LoggerAdapter
    ) -> None:
        self._factory = factory
        self._links = links
        self._startup_file = startup_file
        self._log = log
        self._wrapper: Callable[..., KernelProvisionerBase] | None = None
        self._left_alone: dict[str, str] = {}

    def install(self) -> None:
        """From now on local Python kernels start with the agent. A second call changes nothing."""
        if self._wrapper is not None:
            return
        original = self._factory.create_provisioner_instance

        def create_provisioner_instance(
            kernel_id: str, kernel_spec: Any, parent: Any
        ) -> KernelProvisionerBase:
            provisioner = original(kernel_id, kernel_spec, parent)
            if self._wrapper is not None:
                self._prepare(provisioner, kernel_id)
            return provisioner

        self._wrapper = create_provisioner_instance
        self._factory.create_provisioner_instance = create_provisioner_instance

    def remove(self) -> None:
        """Kernels start as if we were not here. Where somebody has wrapped our wrapper, ours stays and does nothing."""
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is not None and vars(self._factory).get("create_provisioner_instance") is wrapper:
            del self._factory.create_provisioner_instance

    def left_alone(self, kernel_id: str) -> str | None:
        """Why a kernel was started without the agent, as a sentence; None if it was given one."""
        return self._left_alone.get(kernel_id)

    def forget(self, kernel_id: str) -> None:
        """The kernel is no more."""
        self._left_alone.pop(kernel_id, None)

    def _prepare(self, provisioner: KernelProvisionerBase, kernel_id: str) -> None:
        """Have each launch of this kernel, restarts included, carry the agent; or remember why it does not."""
        reason = why_left_alone(provisioner)
        if reason is not None:
            self._left_alone[kernel_id] = reason
            return
        pre_launch = provisioner.pre_launch

        async def pre_launch_with_agent(**kwargs: Any) -> dict[str, Any]:
            kwargs = await pre_launch(**kwargs)
            if self._wrapper is not None:
                self._add_agent(kwargs["env"], provisioner, kernel_id)
            return kwargs

        provisioner.pre_launch = pre_launch_with_agent  # type: ignore[method-assign]

    def _add_agent(
        self, env: MutableMapping[str, str], provisioner: KernelProvisionerBase, kernel_id: str
    ) -> None:
        try:
            if not self._startup_file.is_file():
                raise FileNotFoundError(f"{self._startup_file} is missing; reinstall jupyter_gpu_reclaim")
            users_own = env.get(STARTUP)
            agent = {
                "socket": str(self._links.path),
                "kernel_id": kernel_id,
                "secret": self._links.invite(kernel_id, lambda: provisioner.pid),
                "pythonstartup": users_own if users_own != str(self._startup_file) else None,
            }
            env.update({protocol.ENVIRONMENT_VARIABLE: json.dumps(agent), STARTUP: str(self._startup_file)})
            self._left_alone.pop(kernel_id, None)
        except Exception as error:  # whatever it is, the user's kernel starts
            self._left_alone[kernel_id] = f"Its agent could not be added when it started: {error}."
            self._log.exception("Kernel %s starts without its agent; it will not be reclaimed", kernel_id)


def why_left_alone(provisioner: KernelProvisionerBase) -> str | None:
    """Why a kernel gets no agent, as a sentence; None if it can have one."""
    if not isinstance(provisioner, LocalProvisioner):
        return "It does not run on this machine's own, so its GPU memory is out of reach."
    language = getattr(provisioner.kernel_spec, "language", "") or ""
    if not language.lower().startswith("python"):
        return f"Only Python kernels can be reclaimed; its kernelspec says {language or 'no language'}."
    return None
