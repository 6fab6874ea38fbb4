"""A PostgreSQL server of one's own, for the time of a bench or a test run: on a socket in its folder, on no port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def missing() -> str | None:
    """What is not here that it takes; None: nothing."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return None if _programs() else "no PostgreSQL (initdb, pg_ctl) is installed"


def _programs() -> Path | None:
    """The folder of the newest initdb and pg_ctl."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("pg_ctl")
    program = found[-1] if found else Path(on_path).resolve() if on_path else None
    return program.parent if program else None


class PostgresqlServer:
    """A server with an empty database "postgres", which it lets anybody on this machine's socket into as "gpu"."""

    def __init__(self, fsync: bool = False) -> None:
        self._fsync = "on" if fsync else "off"
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path may have 107 bytes
        self._as_user = []
        if os.geteuid() == 0:  # PostgreSQL does not run as root
            shutil.chown(self.folder, "postgres", "postgres")
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        self._call("initdb", "-U", "gpu", "-A", "trust", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8")

    def url(self, user: str = "gpu") -> str:
        """The db_url of its database."""
        return f"postgresql+psycopg://{user}@/postgres?host={self.folder}"

    def start(self) -> None:
        """Returns when it takes connections."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync={self._fsync}"
        self._call("pg_ctl", "-w", "-l", str(self.folder / "server.log"), "-o", options, "start")

    def stop(self) -> None:
        """Ends every connection and returns when the server has ended."""
        self._call("pg_ctl", "-w", "-m", "fast", "stop")

    def remove(self) -> None:
        """The folder with all that is in it."""
        shutil.rmtree(self.folder)

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(_programs() / program), "-D", str(self.folder / "data"), *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
