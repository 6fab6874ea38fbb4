"""The order in which the extension starts its parts, and that it loads where it cannot work."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

from jupyter_server.serverapp import ServerApp

from jupyter_gpu_reclaim.reclaim_log import QueuedReclaimLog
from jupyter_gpu_reclaim.server.app import GpuReclaim

PATIENCE_SECONDS = 60
LOAD_AS_ON_WINDOWS = """
import os, signal, socket, sys
import alembic, jupyter_server.serverapp, prometheus_client, psutil, pynvml, sqlalchemy.dialects.sqlite
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in ((os, "getuid O_CLOEXEC O_DIRECTORY O_NOFOLLOW"), (socket, "AF_UNIX"), (signal, "SIGKILL")):
    for name in names.split():
        delattr(module, name)
import jupyter_gpu_reclaim.server.app
from jupyter_gpu_reclaim import cli
cli.parser()
"""


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


def test_it_loads_where_unix_is_missing() -> None:
    """Without the modules and constants that Windows lacks, the extension and the command line are imported."""
    subprocess.run([sys.executable, "-c", LOAD_AS_ON_WINDOWS], check=True, timeout=PATIENCE_SECONDS)
