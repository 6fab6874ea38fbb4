"""The order in which the extension starts its parts."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.serverapp import ServerApp

from jupyter_gpu_reclaim.reclaim_log import QueuedReclaimLog
from jupyter_gpu_reclaim.server.app import GpuReclaim

PATIENCE_SECONDS = 60


class WithALateLog(GpuReclaim):
    """The extension, with a log whose database takes as long as the test wants it to."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.opening, self.answers = asyncio.Event(), asyncio.Event()

    def _log(self) -> QueuedReclaimLog:
        log = super()._log()
        open_log = log.open

        async def open_late() -> None:
            self.opening.set()
            await self.answers.wait()
            await open_log()

        log.open = open_late  # type: ignore[method-assign]
        return log


async def test_a_kernel_that_starts_while_the_log_is_opened_has_an_agent(jp_serverapp: ServerApp) -> None:
    """Opening the log may take long; a kernel that is started meanwhile is given its agent all the same."""
    app = WithALateLog(parent=jp_serverapp)
    starting = asyncio.create_task(app._start_jupyter_server_extension(jp_serverapp))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await app.opening.wait()
        kernel_id = await jp_serverapp.kernel_manager.start_kernel()
        app.answers.set()
        await starting
        assert app._links.invited_at(kernel_id) is not None
        while kernel_id not in app.agents():
            await asyncio.sleep(0.03)  # nobody tells when an agent comes
    await jp_serverapp.kernel_manager.shutdown_kernel(kernel_id, now=True)
    await app.stop_extension()
