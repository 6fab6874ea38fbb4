"""The server extension: makes the parts, puts them together, starts and stops them. Nothing is decided here."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory
from jupyter_core.paths import jupyter_runtime_dir
from jupyter_server.extension.application import ExtensionApp

import jupyter_gpu_reclaim
from jupyter_gpu_reclaim import agent
from jupyter_gpu_reclaim.config import PolicyTraits
from jupyter_gpu_reclaim.gpu.nvml import Nvml
from jupyter_gpu_reclaim.hub_link import HubLink, SharedBoard
from jupyter_gpu_reclaim.node import NodeBoard
from jupyter_gpu_reclaim.reclaim_log import PersonalData, QueuedReclaimLog, SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.place import default_db_url, own_folder
from jupyter_gpu_reclaim.reclaim_log.retention import Retention
from jupyter_gpu_reclaim.reconciler import Reconciler
from jupyter_gpu_reclaim.server import handlers, log_handlers
from jupyter_gpu_reclaim.server.agent_status import AgentStatus
from jupyter_gpu_reclaim.server.events import Events
from jupyter_gpu_reclaim.server.housekeeping import Housekeeping
from jupyter_gpu_reclaim.server.hub import hub_link, recent_rows
from jupyter_gpu_reclaim.server.injection import Injection
from jupyter_gpu_reclaim.server.kernels import AgentKernels
from jupyter_gpu_reclaim.server.labels import NotebookLabels
from jupyter_gpu_reclaim.server.link import AgentLinks
from jupyter_gpu_reclaim.server.metrics import Metrics
from jupyter_gpu_reclaim.server.observer import ServerObserver
from jupyter_gpu_reclaim.server.usage import UsageRecorder

STOP_TIMEOUT_SECONDS = 10.0
NEEDS_LINUX = "Reclaiming GPUs needs Linux; on this machine no kernel is touched."
NOT_STARTED = "The extension has not started; the server's log says why."


class SystemClock:
    """`ports.Clock`: the machine's."""

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(UTC)


class GpuReclaim(PolicyTraits, ExtensionApp):
    """Takes the GPU back from idle notebooks, and gives it back on the next cell."""

    name = "jupyter_gpu_reclaim"
    version = jupyter_gpu_reclaim.__version__
    reconciler: Reconciler | None = None
    reclaim_log: QueuedReclaimLog | None = None
    why_not_running = NOT_STARTED
    _hub_link: HubLink | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._started = AsyncExitStack()  # what is to be stopped, in the order of starting

    def initialize_handlers(self) -> None:
        """Add the REST API; until started it replies 503."""
        self.handlers.extend((*handlers.ROUTES, *log_handlers.ROUTES))

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Runs when the server's event loop does. Raises what keeps it from starting; the server goes on without."""
        if not sys.platform.startswith("linux"):
            self.why_not_running = NEEDS_LINUX
            self.log.warning(NEEDS_LINUX)
            return
        async with AsyncExitStack() as started:
            await self._start(serverapp, started)
            self._started = started.pop_all()

    async def stop_extension(self) -> None:
        """End everything, moves under way included, within a bounded time. Reclaimed kernels restore by themselves."""
        self.reconciler = None
        started, self._started = self._started, AsyncExitStack()
        await started.aclose()

    @property
    def owner(self) -> str:
        """See `owner_name`."""
        return owner_name()

    def agents(self) -> dict[str, AgentStatus]:
        """What each kernel's agent last said, by kernel id."""
        return {link.kernel_id: link.status for link in self._links.all()}

    def hub(self) -> dict[str, Any] | None:
        """What the Hub's service says of this server; None: there is none."""
        return None if self._hub_link is None else self._hub_link.shown()

    async def _start(self, serverapp: Any, started: AsyncExitStack) -> None:
        """Make and start every part; `started` learns how to stop each as soon as it runs."""
        policy = self.to_policy()
        self.reclaim_log = self._log()
        started.push_async_callback(self.reclaim_log.close)
        self._links = links = AgentLinks(
            Path(jupyter_runtime_dir()), self._welcome(), self.log, lambda kernel_id: reconciler.wake()
        )
        factory = KernelProvisionerFactory.instance(parent=serverapp)
        injection = Injection(factory, links, Path(agent.__file__).parent / "startup.py", self.log)
        kernels = AgentKernels(links, self.log, self.spill_dir)
        labels = NotebookLabels(serverapp.session_manager, self.log)
        observer = ServerObserver(serverapp.kernel_manager, labels, links, injection, Nvml(), owner_name())
        started.push_async_callback(observer.close)
        board = NodeBoard(Path(self.node_dir) if self.node_dir else None)
        self._hub_link = hub = hub_link(self, policy, SystemClock())
        reconciler = Reconciler(
            observer,
            kernels,
            self.reclaim_log,
            SystemClock(),
            policy,
            tick_seconds=self.tick_seconds,
            board=board if hub is None else SharedBoard(board, hub),
        )
        events = Events(serverapp.event_logger, links, kernels, injection, self.log)
        started.push_async_callback(links.stop)
        await links.start()
        started.callback(injection.remove)
        injection.install()  # before all else that takes time: a kernel that starts earlier never has an agent
        await self.reclaim_log.open()
        reconciler.on_change(events.tell)
        await self._start_readers(reconciler, hub, started)
        started.push_async_callback(reconciler.stop, STOP_TIMEOUT_SECONDS)
        self._loop = asyncio.create_task(reconciler.run(), name="gpu-reclaim")
        started.callback(events.stop)
        events.start()
        self.reconciler = reconciler

    async def _start_readers(
        self, reconciler: Reconciler, hub: HubLink | None, started: AsyncExitStack
    ) -> None:
        """Whatever lives on what the loop says and writes."""
        housekeeping = Housekeeping(self.reclaim_log, SystemClock(), self._retention())
        started.push_async_callback(housekeeping.stop)
        housekeeping.start()
        self.usage = UsageRecorder(self.reclaim_log.usage(owner_name()), self.tick_seconds)
        started.push_async_callback(self.usage.stop)
        reconciler.on_change(self.usage.see)
        metrics = Metrics(self.reclaim_log, reconciler.policy.cooldown)
        metrics.start()
        started.callback(metrics.stop)
        reconciler.on_change(metrics.see)
        if hub is not None:
            started.push_async_callback(hub.stop)
            await hub.start(reconciler, partial(recent_rows, self))
            reconciler.on_change(hub.see)

    def _log(self) -> QueuedReclaimLog:
        folder = own_folder()
        personal = PersonalData.kept(self.personal_data, folder / "names.key")
        return QueuedReclaimLog(SqlReclaimLog(self.db_url or default_db_url()), folder, personal)

    def _retention(self) -> Retention:
        days, rows = self.keep_log_days, self.keep_log_rows
        return Retention(timedelta(days=days) if days else None, rows or None)

    def _welcome(self) -> dict[str, Any]:
        return {
            "sample_seconds": self.sample_seconds,
            "orphan_seconds": self.orphan_seconds,
            "host_buffer_seconds": self.host_buffer_seconds,
            "host_reserve_bytes": self.host_reserve_bytes,
            "verify_episodes": self.verify_episodes,
            "harmless_modules": list(self.harmless_modules),
            "places": self.max_running_per_gpu > 0,
            "room_wait_seconds": self.room_wait_seconds if self.mode == "on" else 0.0,
        }


def owner_name() -> str:
    """The user whose kernels these are: JupyterHub's name for them, else the system's, else ""."""
    try:
        return os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return ""
