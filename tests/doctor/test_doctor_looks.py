"""`jupyter gpu-reclaim doctor` on this machine: real files, real interpreters, a real PostgreSQL address, no mock."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_gpu_reclaim import cli
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import preload_nvml

Findings = dict[str, dict[str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with one working kernelspec; the simulated GPU is the machine's."""
    for name in ("config", "data", "runtime", "ipython"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"JUPYTER_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # in a virtual environment its files would come first
    monkeypatch.delenv("JUPYTERHUB_API_URL", raising=False)
    return tmp_path


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[Board]:
    """A simulated GPU that NVML in this process shows."""
    with Board.create(tmp_path / "board", [("GPU 64 MiB", 64 * MiB)]) as board:
        preload_nvml(board.path)
        yield board
        preload_nvml(None)


def examined(capsys: pytest.CaptureFixture[str]) -> Findings:
    """What `doctor --json` says, by check."""
    cli.main(["doctor", "--json"])
    return {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def server_config(home: Path, *lines: str) -> None:
    """Lay the user's jupyter_server_config.py."""
    (home / "config" / "jupyter_server_config.py").write_text("\n".join(["c = get_config()", *lines]) + "\n")


def kernelspec(home: Path, name: str, argv: list[str], language: str = "python") -> None:
    """Lay a kernelspec in the user's data folder."""
    folder = home / "data" / "kernels" / name
    folder.mkdir(parents=True)
    spec = {"argv": [*argv, "{connection_file}"], "display_name": name, "language": language}
    (folder / "kernel.json").write_text(json.dumps(spec))


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file below, with its content's hash and the time of its last change."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if path.name != "board"
    }


def test_it_changes_nothing(home: Path, gpu: Board, capsys: pytest.CaptureFixture[str]) -> None:
    """Not a file or folder in the user's home is made, changed or touched, and no log's database is begun."""
    before = contents(home)
    found = examined(capsys)
    assert contents(home) == before
    assert found["database"]["level"] == "ok"
    assert "GPU 64 MiB" in found["gpus"]["message"]
    assert "simulated" in found["gpus"]["message"]


def test_the_exit_code_follows_the_findings(
    home: Path, gpu: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits 1 when, and only when, something fails; a database that cannot be written is enough."""
    (home / "file").touch()
    server_config(home, f"c.GpuReclaim.db_url = 'sqlite:///{home}/file/log.sqlite'")
    assert cli.main(["doctor", "--json"]) == 1
    body = json.loads(capsys.readouterr().out)
    assert body["healthy"] is False
    levels = {finding["check"]: finding["level"] for finding in body["findings"]}
    assert levels["database"] == "fail"
    file = home / "findings.json"
    code = cli.main(["doctor", "--json", str(file)])
    assert code == int(not json.loads(file.read_text())["healthy"])


def test_a_server_extension_that_is_switched_off(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user's own file outdoes the environment's, and jupyter_server_config.py outdoes both, as in the server."""
    folder = home / "config" / "jupyter_server_config.d"
    folder.mkdir()
    off = {"ServerApp": {"jpserver_extensions": {"jupyter_gpu_reclaim": False}}}
    (folder / "mine.json").write_text(json.dumps(off))
    found = examined(capsys)["server"]
    assert (found["level"], str(folder / "mine.json") in found["message"]) == ("fail", True)
    server_config(home, "c.ServerApp.jpserver_extensions = {'jupyter_gpu_reclaim': True}")
    assert examined(capsys)["server"]["level"] == "ok"


def test_kernels_are_asked_in_their_own_environment(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing interpreter, another language and a wrapped command are each told; nothing is guessed."""
    kernelspec(home, "gone", [str(home / "python")])
    kernelspec(home, "ir", ["R"], language="R")
    kernelspec(home, "wrapped", ["env", "python", "-m", "ipykernel_launcher"])
    kernelspec(home, "mine", [sys.executable, "-m", "ipykernel_launcher"])
    found = examined(capsys)
    assert found["kernel gone"]["level"] == "fail"
    assert "no such program" in found["kernel gone"]["message"]
    assert "left alone" in found["kernel ir"]["message"]
    assert found["kernel wrapped"]["level"] == "warn"
    assert found["kernel mine"]["level"] == "ok"
    (home / "ipython" / "profile_default").mkdir()
    (home / "ipython" / "profile_default" / "ipython_config.py").write_text(
        "c = get_config()\nc.InteractiveShellApp.exec_PYTHONSTARTUP = False\n"
    )
    assert examined(capsys)["kernels"]["level"] == "fail"


def test_settings_cullers_and_what_cannot_be_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A culler set to act first is named, so is a setting out of range, and a file that fails, with its error."""
    server_config(
        home, "c.MappingKernelManager.cull_idle_timeout = 300", "c.GpuReclaim.idle_after_seconds = 400"
    )
    found = examined(capsys)["cullers"]
    assert found["level"] == "warn"
    assert "400 s" in found["message"]
    assert "cull_idle_timeout" in found["message"]
    server_config(home, "c.GpuReclaim.tick_seconds = -1")
    assert examined(capsys)["settings"]["level"] == "fail"
    server_config(home, "raise RuntimeError('half written')")
    assert "half written" in examined(capsys)["server"]["message"]


def test_a_hub_or_database_that_is_not_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody listening is told with the system's own words, and passwords are not shown."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = taken.getsockname()[1]
        monkeypatch.setenv("JUPYTERHUB_API_URL", f"http://127.0.0.1:{port}/hub/api")
        server_config(home, f"c.GpuReclaim.db_url = 'postgresql+psycopg://ada:secret@127.0.0.1:{port}/log'")
        found = examined(capsys)
    assert "refused" in found["hub"]["message"].lower()
    assert found["database"]["level"] == "fail"
    assert "refused" in found["database"]["message"].lower()
    assert "secret" not in json.dumps(found)


def test_the_exercise_wants_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """`--exercise --json` without a file is refused in one line, before anything moves."""
    assert cli.main(["doctor", "--exercise", "--json"]) == 2
    assert "--json FILE" in capsys.readouterr().err
