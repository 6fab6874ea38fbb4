"""The agent gets into every Python kernel on this machine, and into nothing else; and no kernel ever fails to start."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_peer import LOG, listening
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import KernelProvisionerFactory
from running_server import LAUNCH, RunningServer

from jupyter_gpu_reclaim import agent
from jupyter_gpu_reclaim.agent import protocol
from jupyter_gpu_reclaim.server.injection import Injection
from jupyter_gpu_reclaim.server.link import AgentLinks

AGENT = Path(agent.__file__).parent
ENVIRONMENT = (
    "import json, os, subprocess, sys\n"
    "show = 'import json, os; print(json.dumps(dict(os.environ)))'\n"
    "child = subprocess.run([sys.executable, '-I', '-c', show], capture_output=True, text=True, check=True)\n"
    "print(json.dumps([dict(os.environ), json.loads(child.stdout), sorted(set(globals()))]))"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all kernels here."""
    with RunningServer(tmp_path_factory.mktemp("injection")) as server:
        yield server


async def environment_of(notebook: Any) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """The kernel's environment, that of a child process of it, and the names in the user's namespace."""
    return tuple(json.loads(await notebook.run(ENVIRONMENT)))


def python_kernels(server: RunningServer, ipykernel6: str) -> dict[str, str]:
    """Kernelspecs of every kind that must get the agent, by what is special about them."""
    startup = server.folder / "mine.py"
    startup.write_text("mine = 41 + 1\n")
    return {
        "this environment's": "python3",
        "another environment's, ipykernel 6": server.kernelspec("six", [ipykernel6, *LAUNCH]),
        "isolated from the environment": server.kernelspec("isolated", [sys.executable, "-I", *LAUNCH]),
        "naming its provisioner": server.kernelspec(
            "named", metadata={"kernel_provisioner": {"provisioner_name": "local-provisioner"}}
        ),
        "behind a shell that stays": server.kernelspec(
            "wrapped", ["sh", "-c", f"{sys.executable} {' '.join(LAUNCH)}; true"]
        ),
        "with a startup file of its own": server.kernelspec("own", env={"PYTHONSTARTUP": str(startup)}),
    }


def test_every_kind_of_python_kernel_is_managed(server: RunningServer, ipykernel6: str) -> None:
    """An agent speaks for each, with the pid of Python itself; neither it nor its children see our variables."""

    async def check(kind: str, spec: str) -> None:
        notebook = await server.open(f"{spec}.ipynb", spec)
        label = f"{spec}.ipynb"  # once Jupyter has told of the session, which it opens after its kernel
        row = await server.until(lambda row: row["managed"] and row["label"] == label, notebook.kernel_id)
        environment, of_child, names = await environment_of(notebook)
        assert (kind, row["pid"]) == (kind, int(await notebook.run("import os; print(os.getpid())")))
        for seen in (environment, of_child):
            assert protocol.ENVIRONMENT_VARIABLE not in seen, kind
            assert str(AGENT / "startup.py") not in seen.values(), kind
        assert [name for name in names if "reclaim" in name] == [], kind
        if spec == "own":
            assert await notebook.run("print(mine)") == "42\n"
            assert (
                Path(environment["PYTHONSTARTUP"]).name == Path(of_child["PYTHONSTARTUP"]).name == "mine.py"
            )
        else:
            assert "PYTHONSTARTUP" not in environment, kind
        await server.shut_down(notebook)

    async def check_all() -> None:
        for kind, spec in python_kernels(server, ipykernel6).items():
            await check(kind, spec)

    server.run(check_all())


def test_another_language_is_left_alone(server: RunningServer) -> None:
    """A kernel whose kernelspec is not Python's starts with an unchanged environment, and the status says why."""
    spec = server.kernelspec("fortran", language="fortran")

    async def check() -> None:
        notebook = await server.open("f.ipynb", spec)
        environment, _, _ = await environment_of(notebook)
        assert not {protocol.ENVIRONMENT_VARIABLE, "PYTHONSTARTUP"} & environment.keys()
        row = await server.until(lambda row: row["unsupported"], notebook.kernel_id)
        assert not row["managed"]
        assert (row["language"], row["explanation"]) == (
            "fortran",
            "Only Python kernels can be reclaimed; its kernelspec says fortran.",
        )
        await server.shut_down(notebook)

    server.run(check())


def test_a_user_who_switched_startup_files_off_is_unmanaged(server: RunningServer) -> None:
    """Where IPython is told not to run PYTHONSTARTUP the kernel works, and shows as unmanaged."""
    off = "--InteractiveShellApp.exec_PYTHONSTARTUP=False"
    spec = server.kernelspec("off", [sys.executable, *LAUNCH, off])

    async def check() -> None:
        notebook = await server.open("off.ipynb", spec)
        assert await notebook.run("print(6 * 7)") == "42\n"
        row = await server.until(lambda row: True, notebook.kernel_id)
        assert not row["managed"]
        assert row["decision"]["reason"] in ("unmanaged", "no_gpu_memory")
        await server.shut_down(notebook)

    server.run(check())


def test_restart_and_autorestart_bring_a_new_agent(server: RunningServer) -> None:
    """After a restart by the user, and after a crash, the new process is managed under the same kernel id."""

    async def check() -> None:
        notebook = await server.open("again.ipynb")
        first = await server.until(lambda row: row["managed"], notebook.kernel_id)
        await server.jupyter.request("POST", f"/api/kernels/{notebook.kernel_id}/restart")
        second = await server.until(
            lambda row: row["managed"] and row["pid"] != first["pid"], notebook.kernel_id
        )
        os.kill(second["pid"], 9)
        third = await server.until(
            lambda row: row["managed"] and row["pid"] not in (first["pid"], second["pid"]), notebook.kernel_id
        )
        assert third["phase"] == "resident"
        await server.shut_down(notebook)

    server.run(check())


@asynccontextmanager
async def injected(folder: Path, startup_file: Path) -> AsyncIterator[tuple[AgentLinks, Injection, Any]]:
    """Links and an installed injection, without a server around them."""
    factory = KernelProvisionerFactory.instance()
    async with listening(folder) as (links, changes):
        injection = Injection(factory, links, startup_file, LOG)
        injection.install()
        try:
            yield links, injection, changes
        finally:
            injection.remove()
            KernelProvisionerFactory.clear_instance()


@asynccontextmanager
async def kernel(**options: Any) -> AsyncIterator[AsyncKernelManager]:
    """A kernel of this environment."""
    manager = AsyncKernelManager(kernel_name="python3", **options)
    await manager.start_kernel()
    try:
        yield manager
    finally:
        await manager.shutdown_kernel(now=True)


async def output_of(manager: AsyncKernelManager, code: str) -> str:
    """What a cell of one print prints."""
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=60)
        printed: list[str] = []

        def keep(message: dict[str, Any]) -> None:
            printed.append(message["content"].get("text", ""))

        reply = await client.execute_interactive(code, output_hook=keep, timeout=60)
        assert reply["content"]["status"] == "ok"
        return "".join(printed)
    finally:
        client.stop_channels()


@pytest.mark.parametrize("damage", ["missing", "syntax error", "raises", "exits"])
async def test_a_broken_agent_never_keeps_a_kernel_from_starting(
    tmp_path: Path, jp_environ: None, damage: str
) -> None:
    """With the agent's file missing, or its code broken in any way, the kernel starts and runs cells, unmanaged."""
    folder = tmp_path / "agent"
    shutil.copytree(AGENT, folder)
    if damage == "missing":
        (folder / "startup.py").unlink()
    else:
        broken = {"syntax error": "def (", "raises": "1 / 0", "exits": "raise SystemExit(3)"}[damage]
        (folder / "__init__.py").write_text(broken)
    async with (
        injected(tmp_path / "runtime", folder / "startup.py") as (links, injection, _),
        kernel() as manager,
    ):
        assert await output_of(manager, "print(6 * 7)") == "42\n"
        assert links.link(manager.kernel_id) is None
        why = injection.left_alone(manager.kernel_id)
        assert (why is not None and "startup.py is missing" in why) == (damage == "missing")


async def test_installing_twice_and_removing_leave_the_factory_as_it_was(
    tmp_path: Path, jp_environ: None
) -> None:
    """A second install() changes nothing; after remove() a kernel starts, and one that lives restarts, without us."""
    factory = KernelProvisionerFactory.instance()
    before = factory.create_provisioner_instance
    async with injected(tmp_path / "runtime", AGENT / "startup.py") as (links, injection, changes):
        wrapped = factory.create_provisioner_instance
        injection.install()
        assert factory.create_provisioner_instance is wrapped
        async with kernel() as manager:
            await changes.until(lambda: links.link(manager.kernel_id))
            injection.remove()
            assert factory.create_provisioner_instance == before
            invited = links.invited_at(manager.kernel_id)
            await manager.restart_kernel(now=True)
            look = f"import os; print({protocol.ENVIRONMENT_VARIABLE!r} in os.environ, 'PYTHONSTARTUP' in os.environ)"
            assert await output_of(manager, look) == "False False\n"
            assert links.invited_at(manager.kernel_id) == invited


async def test_somebody_elses_wrapper_over_ours_survives(tmp_path: Path) -> None:
    """If another extension wrapped the factory after us, remove() leaves its wrapper, and ours does nothing."""
    factory = KernelProvisionerFactory.instance()
    async with injected(tmp_path / "runtime", AGENT / "startup.py") as (_, injection, _):
        ours = factory.create_provisioner_instance

        def theirs(*arguments: Any, **named: Any) -> Any:
            return ours(*arguments, **named)

        factory.create_provisioner_instance = theirs
        injection.remove()
        assert factory.create_provisioner_instance is theirs
