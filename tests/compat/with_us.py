"""A pytest plugin: with COMPAT_WITH_US set, every kernel and server of another project's own tests has us in it.

COMPAT_REPORT names a file to which it writes what became of each test, and how many kernels were given an agent and
servers the extension: a comparison in which there were none says nothing.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXTENSION = "jupyter_gpu_reclaim"
RANK = {"passed": 0, "skipped": 1, "xfailed": 1, "xpassed": 1, "failed": 2}
outcomes: dict[str, str] = {}
with_agent: set[tuple[str, int]] = set()
servers = 0


def pytest_configure(config: pytest.Config) -> None:
    """Switch us on where asked to: through the server where the tests have one, else for each kernel by itself."""
    if os.environ.get("COMPAT_WITH_US"):
        count_agents()
        if os.environ["COMPAT_WITH_US"] == "server":
            enable_in_every_server()
        else:
            give_every_kernel_an_agent()


def count_agents() -> None:
    """Remember each agent that the server's end of the socket admits."""
    from jupyter_gpu_reclaim.server.link import AgentLinks

    admit = AgentLinks._admit

    async def counted(self: AgentLinks, *connection: Any) -> Any:
        link = await admit(self, *connection)
        with_agent.add((link.kernel_id, link.pid))
        return link

    AgentLinks._admit = counted  # type: ignore[method-assign]


def enable_in_every_server() -> None:
    """As the file that our wheel lays into etc/jupyter does; the tests look for such files in empty folders."""
    from jupyter_server.serverapp import ServerApp

    find = ServerApp.find_server_extensions

    def find_ours_too(self: ServerApp) -> None:
        find(self)
        self.jpserver_extensions = {**self.jpserver_extensions, EXTENSION: True}

    ServerApp.find_server_extensions = find_ours_too  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start us in the tests' server, as its event loop would: theirs never comes to that."""
    global servers
    made = yield
    if fixturedef.argname == "jp_serverapp" and os.environ.get("COMPAT_WITH_US") == "server":
        loop = request.getfixturevalue("jp_asyncio_loop")
        loop.run_until_complete(made.extension_manager.start_extension(EXTENSION))
        apps = made.extension_manager.extension_apps.get(EXTENSION, ())
        servers += any(app.reconciler is not None for app in apps)
    return made


def give_every_kernel_an_agent() -> None:
    """Without a server: the agents' socket in a thread, each new factory of provisioners wrapped as a server's is."""
    from jupyter_client.provisioning import KernelProvisionerFactory

    from jupyter_gpu_reclaim.server.app import GpuReclaim
    from jupyter_gpu_reclaim.server.injection import Injection
    from jupyter_gpu_reclaim.server.link import AgentLinks

    agent = importlib.util.find_spec(f"{EXTENSION}.agent")
    assert agent is not None
    assert agent.origin is not None
    log = logging.LoggerAdapter(logging.getLogger(EXTENSION))
    links = AgentLinks(Path(tempfile.mkdtemp()), GpuReclaim()._welcome(), log, lambda kernel_id: None)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="agents' socket", daemon=True).start()
    asyncio.run_coroutine_threadsafe(links.start(), loop).result()
    create = KernelProvisionerFactory.__init__

    def create_wrapped(self: KernelProvisionerFactory, **settings: Any) -> None:
        create(self, **settings)
        Injection(self, links, Path(agent.origin).parent / "startup.py", log).install()

    KernelProvisionerFactory.__init__ = create_wrapped  # type: ignore[method-assign]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The worst of a test's set-up, call and tear-down is what became of it."""
    outcome = f"x{report.outcome}" if hasattr(report, "wasxfail") else report.outcome
    outcome = {"xskipped": "xfailed"}.get(outcome, outcome)
    before = outcomes.get(report.nodeid, "passed")
    outcomes[report.nodeid] = max(before, outcome, key=lambda kind: RANK[kind])


def pytest_sessionfinish() -> None:
    """Write it down."""
    told = {"outcomes": outcomes, "kernels": len(with_agent), "servers": servers}
    Path(os.environ["COMPAT_REPORT"]).write_text(json.dumps(told))
