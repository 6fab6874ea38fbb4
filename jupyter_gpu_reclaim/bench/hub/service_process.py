"""The service as a Hub starts it, in a process of its own, with a stand-in for the Hub's word on tokens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO

from tornado.testing import bind_unused_port

PREFIX = "/services/gpu-reclaim/"
START_SECONDS, STOP_SECONDS = 30.0, 15.0
POLICIES = """\
rules:
  - name: lectures
    match: {groups: [course-1], days: [mon, tue, wed, thu, fri], hours: "08:00-18:00"}
    set: {idle_after_seconds: 120}
  - name: large GPUs
    match: {gpus: ["*H100*"]}
    set: {idle_after_seconds: 600}
  - name: everybody
    set: {idle_after_seconds: 1200}
"""


class ServiceProcess:
    """A context manager. `url` is where it listens, `hub_socket` what the stand-in for the Hub has to answer at."""

    def __init__(self, db_url: str, folder: Path) -> None:
        self._db_url = db_url
        self._folder = folder
        self.hub_socket, self._hub_port = bind_unused_port()

    def __enter__(self) -> ServiceProcess:
        listening, port = bind_unused_port()
        listening.close()
        where = f"http://127.0.0.1:{port}"
        self.url = where + PREFIX
        (self._folder / "policies.yaml").write_text(POLICIES)
        self._log: IO[bytes] = (self._folder / "service.log").open("wb")
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyter_gpu_reclaim.hub", f"--db-url={self._db_url}",
                f"--GpuReclaimHub.policy_file={self._folder / 'policies.yaml'}",
            ],
            env={
                **os.environ,
                "JUPYTERHUB_API_URL": f"http://127.0.0.1:{self._hub_port}/hub/api",
                "JUPYTERHUB_API_TOKEN": "the service's own",
                "JUPYTERHUB_CLIENT_ID": "service-gpu-reclaim",
                "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:services!service=gpu-reclaim"]',
                "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
                "JUPYTERHUB_SERVICE_URL": where,
            },
            stdout=self._log,
            stderr=self._log,
        )  # fmt: skip
        self._until_it_answers()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self.hub_socket.close()

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def mib(self) -> float:
        """What it has in memory now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    def log(self) -> str:
        """What it has said."""
        return Path(self._log.name).read_text(errors="replace")

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self.url + "health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        self.__exit__()
        raise RuntimeError(f"The service did not start:\n{self.log()}")
