"""`make binder-test`: what Binder would do with binder/, in a clean venv in the place of its image.

A copy of the repository, the packages of apt.txt looked up, postBuild, start with a server's command; then JupyterLab
is looked at in a browser, and nbclient runs the guided notebook on that server, resting where the notebook says so.
Prints how long each took and how much it put on the disk. With GPU_RECLAIM_TORCH_INDEX= pip looks for PyTorch only
where it is configured to.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent / "ui"))
from browser import chromium

ROOT = Path(__file__).parents[1]
GUIDED = "guided.ipynb"
TOKEN, PORT = "binder-test", 18873
PATIENCE_SECONDS = 180
COFFEE_SECONDS = 70  # samples are written once a minute


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Tells how long something took."""
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def mebibytes(*folders: Path) -> int:
    """What these folders take on the disk."""
    lines = subprocess.run(["du", "-sm", *folders], capture_output=True, text=True, check=True).stdout
    return sum(int(line.split()[0]) for line in lines.splitlines())


def clone(home: Path) -> None:
    """What git has or would take, as Binder's clone has it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, home / name)


def built(folder: Path, environment: dict[str, str]) -> None:
    """apt.txt and postBuild; raises where either cannot be had."""
    packages = (folder / "home" / "binder" / "apt.txt").read_text().split()
    subprocess.run(["dpkg-query", "--show", *packages], check=True)
    with timed("venv"):
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    bare = mebibytes(folder / "venv")
    with timed("binder/postBuild"):
        subprocess.run(["binder/postBuild"], cwd=folder / "home", env=environment, check=True)
    print(f"venv: {mebibytes(folder / 'venv') - bare} MiB more than {bare} MiB bare; the rest (clone, "
          f"simulated GPU): {mebibytes(folder / 'home', folder / 'cache')} MiB", flush=True)  # fmt: skip


def request(method: str, path: str, body: Any = None) -> Any:
    """One REST call to the server."""
    call = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"token {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(call, timeout=30) as reply:
        return json.loads(reply.read() or "null")


@contextmanager
def served(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """The server that binder/start runs, with the command as Binder gives it."""
    command = ["binder/start", "jupyter", "lab", "--ip=127.0.0.1", f"--port={PORT}", "--no-browser"]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder / "home", env={**environment, "JUPYTER_TOKEN": TOKEN}, stdout=log, stderr=log
        )
    try:
        with timed("binder/start until the server answers"):
            until(lambda: request("GET", "/gpu-reclaim/api/status"), process, folder / "server.log")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def until(answer: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Asks until there is an answer; raises with the server's log when it has ended or time is up."""
    end = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            answer()
            return
        except OSError:
            time.sleep(0.2)  # nothing announces it
    raise RuntimeError(f"no server:\n{log.read_text()[-4000:]}")


def look(folder: Path) -> None:
    """JupyterLab opens with the guided notebook and the sidebar in sight; the picture is left in `folder`."""
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"http://127.0.0.1:{PORT}/?token={TOKEN}")
        page.get_by_role("heading", name="Ten minutes with a GPU").wait_for()
        page.locator(".jp-GpuReclaim-panel").wait_for()
        page.screenshot(path=folder / "lab.png")
        browser.close()
    for session in request("GET", "/api/sessions"):  # the page began a kernel, as pages do
        request("DELETE", f"/api/sessions/{session['id']}")


class KernelOfTheServer(AsyncKernelManager):
    """nbclient cannot speak to a server that asks for a token: it takes the kernel's own door, and starts none."""

    has_kernel = True


def run_through(folder: Path) -> dict[str, str]:
    """What each tagged cell of the notebook printed, run by nbclient in a kernel that the server has started."""
    notebook = nbformat.read(ROOT / "jupyter_gpu_reclaim" / "demo" / GUIDED, as_version=4)
    kernel = {"name": "python3"}
    session = request(
        "POST", "/api/sessions", {"path": GUIDED, "name": GUIDED, "type": "notebook", "kernel": kernel}
    )
    path = folder / "jupyter" / "RUNTIME" / f"kernel-{session['kernel']['id']}.json"
    manager = KernelOfTheServer(owns_kernel=False, connection_file=str(path))
    manager.load_connection_file()
    client = NotebookClient(notebook, km=manager, timeout=PATIENCE_SECONDS)

    def rest(cell: Any, cell_index: int, **started: Any) -> None:
        """The break that the notebook asks for, a coffee long, so that the samples of a minute tell of it."""
        if "after-idle" in cell.metadata.get("tags", ()):
            end = time.monotonic() + PATIENCE_SECONDS
            while (rows := request("GET", "/gpu-reclaim/api/status")["kernels"])[0]["phase"] != "reclaimed":
                if time.monotonic() > end:
                    raise RuntimeError(f"not reclaimed: {rows}")
                time.sleep(1)  # the status has no push
            time.sleep(COFFEE_SECONDS)

    client.on_cell_start = rest
    client.execute()
    return {
        tag: "".join(output.get("text", "") for output in cell.get("outputs", ()))
        for cell in notebook.cells
        for tag in cell.metadata.get("tags", ())
    }


def main() -> None:
    """All of it; raises where something does not hold."""
    with tempfile.TemporaryDirectory(prefix="gpu-reclaim-binder-") as scratch:
        folder = Path(scratch)
        (folder / "home").mkdir()
        clone(folder / "home")
        jupyter = {
            f"JUPYTER_{name}_DIR": str(folder / "jupyter" / name) for name in ("CONFIG", "DATA", "RUNTIME")
        }
        environment = {
            **os.environ, **jupyter, "XDG_CACHE_HOME": str(folder / "cache"),
            "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        built(folder, environment)
        with served(folder, environment):
            with timed("JupyterLab with notebook and sidebar"):
                look(folder)
            with timed("the guided notebook, two minutes' rest in it"):
                printed = run_through(folder)
        assert "every bit is as it was left" in printed["after-idle"], printed
        assert re.search(r"reclaim_done .*restore_done", printed["log"], re.DOTALL), printed
        won_back = re.search(r"memory won back +([\d.]+) GiB-hours", printed["report"])
        assert won_back, printed
        assert float(won_back[1]) > 0, printed
        print(printed["log"], won_back[0], sep="\n")


if __name__ == "__main__":
    main()
