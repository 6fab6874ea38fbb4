"""Jupyter's events: transitions, warnings and waits go out as some, interrupts and ends of kernels come in."""

from __future__ import annotations

from logging import LoggerAdapter
from pathlib import Path
from typing import Any

from jupyter_events import EventLogger
from jupyter_events.schema_registry import SchemaRegistryException

from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.reconciler import Status
from jupyter_gpu_reclaim.server.announcements import Announcements
from jupyter_gpu_reclaim.server.injection import Injection
from jupyter_gpu_reclaim.server.kernels import AgentKernels
from jupyter_gpu_reclaim.server.link import AgentLinks

TRANSITION = "https://events.jupyter.org/jupyter_gpu_reclaim/transition/v1"
SCHEMAS = sorted((Path(__file__).parent / "event_schemas").glob("*/v1.yaml"))
KERNEL_ACTIONS = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"
INTERRUPTED = (
    "Interrupted while waiting for the GPU. The cell has not run, nothing is lost: run it again at any time."
)


class Events:
    """Speaks to Jupyter's event logger while started. `tell` is a listener for `Reconciler.on_change`."""

    def __init__(
        self,
        event_logger: EventLogger,
        links: AgentLinks,
        kernels: AgentKernels,
        injection: Injection,
        log: LoggerAdapter,
    ) -> None:
        self._event_logger = event_logger
        self._links = links
        self._kernels = kernels
        self._injection = injection
        self._log = log
        self._announcements = Announcements()

    def start(self) -> None:
        """Register our schemas and listen to what happens to kernels."""
        for schema in SCHEMAS:
            try:
                self._event_logger.register_event_schema(schema)
            except SchemaRegistryException:
                pass  # registered by an earlier start in this process
        self._event_logger.add_listener(schema_id=KERNEL_ACTIONS, listener=self._on_kernel_action)

    def stop(self) -> None:
        """Listen no more."""
        try:
            self._event_logger.remove_listener(schema_id=KERNEL_ACTIONS, listener=self._on_kernel_action)
        except KeyError:
            pass  # jupyter_events' complaint, after removing it, that nobody has registered the schema

    def tell(self, status: Status, rows: tuple[Transition, ...]) -> None:
        """Emit one event a row, and one for each warning and each wait that is new or has changed."""
        for row in rows:
            self._event_logger.emit(schema_id=TRANSITION, data=to_json(row))
        for schema_id, data in self._announcements.of(status):
            self._event_logger.emit(schema_id=schema_id, data=data)

    async def _on_kernel_action(self, logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
        kernel_id = data.get("kernel_id")
        if kernel_id is None or data.get("status") != "success":
            return
        if data["action"] == "interrupt":
            self._end_waits(kernel_id)
        elif data["action"] == "shutdown":
            self._links.forget(kernel_id)
            self._injection.forget(kernel_id)

    def _end_waits(self, kernel_id: str) -> None:
        """SIGINT reaches only the kernel's main thread; what waits on others is ended by a message."""
        self._kernels.end_interrupted_wait(kernel_id, INTERRUPTED)
