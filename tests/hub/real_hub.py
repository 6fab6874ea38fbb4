"""A real JupyterHub with its proxy, its database on PostgreSQL, and users whose servers share one simulated GPU."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook, ServerFailed

ROOT = Path(__file__).parents[2]
OPERATORS = ROOT / "docs" / "operators.md"
DEADLINE_SECONDS = 60
NOT_YET = (404, 424, 502, 503, 599)  # of the proxy without a hub, of the hub without a server
HUB_CONFIG = """\
c = get_config()
c.JupyterHub.bind_url = "http://127.0.0.1:{proxy_port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub_port}"
c.JupyterHub.db_url = {db_url!r}
c.JupyterHub.cookie_secret_file = "cookie_secret"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api_port}"
c.ConfigurableHTTPProxy.auth_token = {proxy_token!r}
c.ConfigurableHTTPProxy.pid_file = "proxy.pid"
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = {password!r}
c.Authenticator.allowed_users = {{"alice", "bob", "admin", "other-admin"}}
c.Authenticator.admin_users = {{"admin", "other-admin"}}
c.SharedPasswordAuthenticator.admin_password = {admin_password!r}
c.JupyterHub.load_groups = {{"students": {{"users": ["alice"]}}, "gpu-admins": {{"users": ["admin"]}}}}
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {homes!r}
c.Spawner.cmd = {command!r}
c.Spawner.environment = {environment!r}
"""
TESTS_CONFIG = """\
c.JupyterHub.services.append({{"name": "tests", "api_token": {token!r}}})
c.JupyterHub.load_roles.append({{
    "name": "tests", "services": ["tests"],
    "scopes": ["admin:users", "admin:groups", "admin:servers", "tokens", "access:servers"],
}})
"""


def snippets(heading: str, language: str) -> list[str]:
    """The blocks of code in that language below a heading of docs/operators.md."""
    section = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^##)", OPERATORS.read_text(), re.M | re.S)
    assert section, f"docs/operators.md has no heading {heading!r}"
    return re.findall(rf"^```{language}\n(.*?)^```$", section.group(1), re.M | re.S)


def snippet(heading: str, language: str) -> str:
    """The only one."""
    (text,) = snippets(heading, language)
    return text


def missing() -> str | None:
    """What is not here that it takes; None: nothing."""
    if importlib.util.find_spec("jupyterhub") is None:
        return "jupyterhub is not installed"
    return None if proxy_command() else "no configurable-http-proxy is installed"


def proxy_command() -> str | None:
    """The proxy of the front end's packages, where there is a node for it, or of this environment, or on the PATH."""
    of_node = [ROOT / "node_modules" / ".bin"] if shutil.which("node") else []
    places = (*of_node, Path(sys.executable).parent, os.environ["PATH"])
    return shutil.which("configurable-http-proxy", path=":".join(map(str, places)))


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


@dataclass
class RealHub(JupyterServer):
    """JupyterHub in `folder`: users alice (of the group "students") and bob, and admin (of "gpu-admins").

    `config` are settings of users' servers, `more_config` is Python that is added to the hub's configuration. What is
    asked with `request` is asked as a service that may make tokens and start servers. Leaving the context ends users'
    servers, hub and proxy.
    """

    db_url: str = ""
    more_config: str = ""
    port: int = 0
    password: str = field(default_factory=lambda: secrets.token_hex(16))

    async def __aenter__(self) -> RealHub:
        self.token, proxy_token = secrets.token_hex(32), secrets.token_hex(32)
        (self.folder / "home").mkdir(parents=True)
        hub_port, proxy_api_port = free_ports(2)
        config = HUB_CONFIG.format(
            proxy_port=self.port,
            hub_port=hub_port,
            proxy_api_port=proxy_api_port,
            proxy=proxy_command(),
            proxy_token=proxy_token,
            db_url=self.db_url,
            password=self.password,
            admin_password=self.password_of("admin"),
            homes=str(self.folder / "home" / "{username}"),
            command=self._command(),
            environment=dict(self.environment),
        )
        (self.folder / "jupyterhub_config.py").write_text(
            config + self.more_config + TESTS_CONFIG.format(token=self.token)
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self._notebooks: list[OpenNotebook] = []
        self._log_path = self.folder / "hub.log"
        self._users: list[UserAtHub] = []
        try:
            await self.start()
        except BaseException:
            await self._end()
            raise
        return self

    def _command(self) -> list[str]:
        root = ["--allow-root"] if os.geteuid() == 0 else []
        settings = (f"--{name}={value}" for name, value in self.config.items())
        return [sys.executable, "-m", "jupyterhub.singleuser", *settings, *root]

    async def start(self) -> None:
        """Start the hub, again where it was killed; returns when it answers through the proxy."""
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "jupyterhub", "-f", "jupyterhub_config.py", cwd=self.folder,
                stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        await self.until_answered(lambda: self.request("GET", "/hub/api/users"))

    async def until_answered(self, ask: Callable[[], Any]) -> Any:
        """What `ask` returns once hub, proxy and server are there to answer it."""
        problem: Exception | None = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while self._process.returncode is None:
                    try:
                        return await ask()
                    except OSError as error:
                        problem = error
                    except HTTPClientError as error:
                        if error.code not in NOT_YET:
                            raise
                        problem = error
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pass
        raise ServerFailed(f"the hub does not answer: {problem!r}\n{self.log_tail(40)}")

    async def kill(self) -> None:
        """kill -9 of the hub alone: users' servers and the proxy live on."""
        os.kill(self.pid, signal.SIGKILL)
        await self._process.wait()

    async def ended(self) -> None:
        """Waits for as long as the hub runs; raises what it said last, should it end by itself."""
        await self._process.wait()
        raise ServerFailed(f"the hub has ended\n{self.log_tail(40)}")

    async def kill_service(self) -> None:
        """kill -9 of our service, which the hub starts again."""
        service = "jupyter_gpu_reclaim.hub"
        (process,) = [
            one for one in psutil.Process(self.pid).children(recursive=True) if service in one.cmdline()
        ]
        process.kill()

    async def ask(self, token: str, path: str) -> str:
        """What our service replies to a GET with that token."""
        where = f"{self.url}/services/gpu-reclaim/{path}"
        headers = {"Authorization": f"token {token}"}
        reply = await AsyncHTTPClient().fetch(where, headers=headers, follow_redirects=False)
        return reply.body.decode()

    async def until_logged(self, text: str) -> None:
        """Wait until the hub's log, in which its services' is, has that text."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while text not in self._log_path.read_text(errors="replace"):
                await asyncio.sleep(0.1)

    def password_of(self, name: str) -> str:
        """With which a person logs in."""
        return f"{self.password}-admin" if name.endswith("admin") else self.password

    async def user(self, name: str, profile: str | None = None) -> UserAtHub:
        """A user whose server runs, noted as started with that profile."""
        user = UserAtHub(self.folder / "home" / name, hub=self, name=name, profile=profile)
        self._users.append(user)
        return await user.__aenter__()

    async def token_of(self, name: str) -> str:
        """A new token of that user, with all of the user's rights."""
        reply = await self.request("POST", f"/hub/api/users/{name}/tokens", {"note": "tests"})
        return reply["token"]

    async def _end(self) -> None:
        try:
            if self._process.returncode is None:
                for user in self._users:
                    await user.__aexit__(None, None, None)
                await super()._end()
        finally:
            for process in psutil.process_iter(["cwd"]):  # the proxy, and all whose hub was killed
                if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(self.folder):
                    process.kill()


@dataclass
class UserAtHub(JupyterServer):
    """One user's server, started by the hub and reached through the proxy with the user's own token."""

    hub: RealHub | None = None
    name: str = ""
    profile: str | None = None

    async def __aenter__(self) -> UserAtHub:
        self.url = f"{self.hub.url}/user/{self.name}"
        self._notebooks: list[OpenNotebook] = []
        self.token = await self.hub.token_of(self.name)
        options = {} if self.profile is None else {"profile": self.profile}
        await self.hub.request("POST", f"/hub/api/users/{self.name}/server", options)
        await self.hub.until_answered(self.status)
        return self

    async def _end(self) -> None:
        for notebook in self._notebooks:
            notebook.close()
        await self.stop()

    async def stop(self) -> None:
        """Have the hub end the server; returns when it has."""
        where = f"/hub/api/users/{self.name}"
        await self.hub.request("DELETE", f"{where}/server", accept=(400, 404))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await self.hub.request("GET", where))["servers"]:
                await asyncio.sleep(0.05)

    def log_tail(self, lines: int = 20) -> str:
        """The hub's log: the servers it starts write there, too."""
        return self.hub.log_tail(lines)

    async def until_status(self, condition: Callable[[Mapping[str, Any]], Any]) -> None:
        """Wait until `condition` holds for the status."""
        status: dict[str, Any] = {}
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not condition(status := await self.status()):
                    await asyncio.sleep(0.05)  # the status has no push
        except TimeoutError:
            raise AssertionError(f"it did not come about; last: {status}\n{self.log_tail(40)}") from None

    async def until(self, condition: Callable[[Mapping[str, Any]], Any], notebook: OpenNotebook) -> Any:
        """The row of a notebook's kernel in the status, once `condition` holds for it."""
        row: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (row := await notebook.holding()) is None or not condition(row):
                    await asyncio.sleep(0.05)  # the status has no push
        except TimeoutError:
            raise AssertionError(f"it did not come about; last: {row}\n{self.log_tail(40)}") from None
        return row
