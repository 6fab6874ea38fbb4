"""One look: NVML's processes placed under their kernels, a driver that hangs, and what a look costs."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agent_peer import agent_of, listening
from jupyter_server.gateway.managers import GatewayKernelManager

from jupyter_gpu_reclaim.core.model import Gpu, Holding, Phase
from jupyter_gpu_reclaim.gpu.nvml import Reading
from jupyter_gpu_reclaim.server import observer as observer_module
from jupyter_gpu_reclaim.server.injection import Injection
from jupyter_gpu_reclaim.server.labels import NotebookLabels
from jupyter_gpu_reclaim.server.link import AgentLinks
from jupyter_gpu_reclaim.server.observer import ServerObserver
from jupyter_gpu_reclaim.server.processes import command_name, lineage, parent_pid
from jupyter_gpu_reclaim.server.processes_by_kernel import ProcessesByKernel

LOG = logging.LoggerAdapter(logging.getLogger("observer"))
GPU = Gpu(uuid="A", name="a", total_bytes=100, used_bytes=30)
STATUS = {
    "phase": "resident",
    "last_active_at": 1_700_000_000,
    "background_work": [],
    "mechanism": "torch_offload",
}


class Kernels:
    """The part of Jupyter's kernel manager that is looked at, with a kernel by id and pid."""

    def __init__(self, **pids: int | None) -> None:
        self.pids = pids
        self.spec_name = "python3"

    def list_kernel_ids(self) -> list[str]:
        """See `MappingKernelManager`."""
        return list(self.pids)

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self.pids

    def get_kernel(self, kernel_id: str) -> Any:
        """See `MappingKernelManager`."""
        spec = SimpleNamespace(language="python")
        provisioner = SimpleNamespace(pid=self.pids[kernel_id], kernel_spec=spec)
        if kernel_id == "remote":
            return GatewayKernelManager(kernel_name="python3")
        return SimpleNamespace(kernel_name=self.spec_name, provisioner=provisioner)


class Sessions:
    """The part of Jupyter's session manager that is looked at."""

    def __init__(self, **paths: str) -> None:
        self.paths = paths
        self.fails = False
        self.asked = 0

    async def list_sessions(self) -> list[dict[str, Any]]:
        """See `SessionManager`."""
        self.asked += 1
        if self.fails:
            raise RuntimeError("no sessions today")
        return [{"path": path, "kernel": {"id": kernel_id}} for kernel_id, path in self.paths.items()]


class Driver:
    """NVML as the observer knows it: what `reading` says, once `answers` is set."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.answers = threading.Event()
        self.answers.set()
        self.reads = 0

    def read(self) -> Reading:
        """See `Nvml`."""
        self.reads += 1
        self.answers.wait()
        return self.reading


def observer_of(
    kernels: Kernels, links: AgentLinks, driver: Driver, sessions: Sessions | None = None
) -> ServerObserver:
    """An observer of these parts."""
    injection = Injection(
        SimpleNamespace(), links, Path("startup.py"), LOG
    )  # not installed: a place for reasons
    labels = NotebookLabels(sessions or Sessions(), LOG)
    return ServerObserver(kernels, labels, links, injection, driver, "ada")


@contextmanager
def child() -> Iterator[int]:
    """A child process that lives as long as it is wanted."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_lineage_ends_at_the_first_process() -> None:
    """The chain of parents begins with the process itself and goes through its parent; a dead one has none."""
    chain = list(lineage(os.getpid()))
    assert chain[:2] == [os.getpid(), os.getppid()]
    with child() as pid:
        assert parent_pid(pid) == os.getpid()
        assert command_name(pid) == "cat"
    assert parent_pid(pid) is None
    assert command_name(pid) == "?"


def test_processes_are_placed_by_their_tree_and_remembered() -> None:
    """A process belongs to the nearest kernel above it; who restarts under a new pid is placed anew."""
    processes = ProcessesByKernel()
    with child() as pid:
        roots = {os.getpid(): "mine", os.getppid(): "shell"}
        assert processes.place([pid, 2**22 + 1], roots) == {pid: "mine"}
    assert processes.place([pid], roots) == {pid: "mine"}, "placed once, not looked up again"
    assert processes.place([], roots) == {}
    assert processes.place([pid], roots) == {}, "forgotten with its last listing"
    assert processes.place([os.getpid()], {os.getppid(): "other"}) == {os.getpid(): "other"}


async def test_a_look_joins_gpu_process_and_agent(tmp_path: Path) -> None:
    """The kernel's own process makes its footprint, its child is named as background work, a stranger is nobody's."""
    with child() as pid:
        reading = Reading(
            gpus=(GPU,), processes={"A": {os.getpid(): 20, pid: 4, 2**22 + 1: 6}}, busy={"A": {}}
        )
        async with listening(tmp_path) as (links, changes):
            peer, link = await agent_of(links, "k")
            gpus = {"A": {"name": "a", "index": 0, "allocated_bytes": 10, "reserved_bytes": 12}}
            peer.say("status", **STATUS, gpus=gpus)
            await changes.until(lambda: link.reported)
            kernels = Kernels(k=os.getppid(), starting=None, remote=None)
            observer = observer_of(kernels, links, Driver(reading), Sessions(k="a.ipynb"))
            snapshot = await observer.snapshot()
    assert snapshot.gpus == (GPU,)
    assert snapshot.host_available_bytes > 0
    k, starting, remote = snapshot.holdings
    assert (k.label, k.owner, k.pid, k.managed, k.gpu_busy) == ("a.ipynb", "ada", os.getpid(), True, False)
    assert (k.footprint, k.footprint_source) == ({"A": 20}, "nvml")
    assert k.background_work == (f"child process {pid} (cat) holds GPU memory",)
    assert k.last_active_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert (starting.label, starting.managed, starting.unsupported) == (
        "python3",
        False,
        observer_module.NOT_INVITED,
    )
    assert remote.unsupported == observer_module.ELSEWHERE


async def test_a_holding_is_made_anew_exactly_when_something_of_it_is_new(tmp_path: Path) -> None:
    """The same object while nothing changes; each source by itself (agent, progress, driver, Jupyter) makes another."""
    async with listening(tmp_path) as (links, changes):
        peer, link = await agent_of(links, "k")
        peer.say("status", **STATUS)
        await changes.until(lambda: link.reported)
        driver = Driver(Reading(gpus=(GPU,), processes={"A": {os.getpid(): 20}}, busy={"A": {}}))
        kernels = Kernels(k=None)
        observer = observer_of(kernels, links, driver)

        async def look() -> Holding | None:
            return next(iter((await observer.snapshot()).holdings), None)

        first = await look()
        assert await look() is first
        peer.say("status", **{**STATUS, "phase": "restoring"}, host_bytes=7)
        await changes.until(lambda: link.status.phase is Phase.RESTORING)
        told = await look()
        assert (told.host_bytes, told.phase, told.moved_bytes) == (7, Phase.RESTORING, None)
        peer.say("progress", done_bytes=4, total_bytes=8)
        peer.say("ping")
        assert (await peer.hear())["op"] == "pong"
        assert (await look()).moved_bytes == 4
        peer.say("status", **STATUS)
        await changes.until(lambda: link.status.phase is Phase.RESIDENT)
        assert (await look()).footprint == {"A": 20}
        driver.reading = Reading(
            gpus=(GPU,), processes={"A": {os.getpid(): 30}}, busy={"A": {os.getpid(): 5}}
        )
        grown = await look()
        assert (grown.footprint, grown.gpu_busy) == ({"A": 30}, True)
        assert await look() is grown
        kernels.spec_name = "other"
        assert (await look()).label == "other"
        kernels.spec_name = "python3"
        kernels.pids.clear()
        assert await look() is None
        kernels.pids["k"] = None
        assert await look() == grown


async def test_an_agent_that_never_says_hello_has_its_sentence(tmp_path: Path) -> None:
    """At first the kernel is starting; half a minute later the sentence says what keeps the agent away."""
    async with listening(tmp_path) as (links, _):
        observer = observer_of(Kernels(k=1), links, Driver(Reading(gpus=())))
        links.invite("k", os.getpid)
        (holding,) = (await observer.snapshot()).holdings
        assert holding.unsupported == observer_module.STARTING
        (facts,) = await observer._kernels(datetime.now(UTC))
        later = datetime.now(UTC) + timedelta(seconds=31)
        assert observer._why_unmanaged(facts, later) == observer_module.NO_HELLO


async def test_a_new_kernel_is_called_by_its_notebook_five_seconds_after_its_made_up_path() -> None:
    """JupyterLab gives a session it starts a made-up path, and its notebook's a moment later."""
    sessions = Sessions(k="b1946ac9-made-up")
    labels = NotebookLabels(sessions, LOG)
    now = datetime.now(UTC)
    assert await labels.paths(["k"], now) == {"k": "b1946ac9-made-up"}
    sessions.paths["k"] = "a.ipynb"
    assert await labels.paths(["k"], now + timedelta(seconds=5)) == {"k": "a.ipynb"}
    assert await labels.paths(["k"], now + timedelta(seconds=34)) == {"k": "a.ipynb"}
    assert sessions.asked == 2, "it is asked about once more, and then as seldom as about all"


async def test_labels_survive_a_session_manager_that_fails(tmp_path: Path) -> None:
    """Notebook paths are looked up again for new kernels and now and then; when that fails the last ones stay."""
    sessions = Sessions(k="a.ipynb")
    labels = NotebookLabels(sessions, LOG)
    now = datetime.now(UTC)
    assert await labels.paths(["k"], now) == {"k": "a.ipynb"}
    assert await labels.paths(["k"], now + timedelta(seconds=1)) == {"k": "a.ipynb"}
    assert sessions.asked == 1
    sessions.paths["k"] = "renamed.ipynb"
    assert await labels.paths(["k"], now + timedelta(seconds=31)) == {"k": "renamed.ipynb"}
    sessions.fails = True
    assert await labels.paths(["k", "new"], now + timedelta(seconds=32)) == {"k": "renamed.ipynb"}
    assert sessions.asked == 3


async def test_a_hanging_driver_costs_one_thread_and_no_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the driver hangs each look says so at once and starts nothing new; when it answers, all is as before."""
    monkeypatch.setattr(observer_module, "DRIVER_LIMIT", timedelta(milliseconds=50))
    driver = Driver(Reading(gpus=(GPU,)))
    driver.answers.clear()
    before = set(threading.enumerate())
    async with listening(tmp_path) as (links, _):
        observer = observer_of(Kernels(k=1), links, driver)
        for _ in range(20):
            snapshot = await observer.snapshot()
            assert snapshot.gpus is None
            assert "has not answered" in snapshot.gpus_problem
            assert snapshot.host_available_bytes is None
            assert [holding.kernel_id for holding in snapshot.holdings] == ["k"]
        assert driver.reads == 1
        new = set(threading.enumerate()) - before
        assert [thread.name for thread in new] == ["gpu-reclaim-nvml"]
        driver.answers.set()
        async with asyncio.timeout(20):
            while (snapshot := await observer.snapshot()).gpus is None:
                await asyncio.sleep(0.01)
        assert (snapshot.gpus, snapshot.gpus_problem) == ((GPU,), None)
