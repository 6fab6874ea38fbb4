"""The hub's service in the test's own process, with a stand-in for the Hub's answer about tokens."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

from jupyterhub.services.auth import HubOAuth
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.testing import bind_unused_port

from jupyter_gpu_reclaim.bench.hub.hub_stand_in import server_token, stand_in
from jupyter_gpu_reclaim.hub.app import MOST_BODY_BYTES, GpuReclaimHub, SystemClock
from jupyter_gpu_reclaim.hub.service import Service

PREFIX = "/services/gpu-reclaim/"


class ServiceHere:
    """An async context manager. `tokens` is what the Hub knows: token → model; ada's and bob's servers have one."""

    def __init__(self, db_url: str, policies: list[dict[str, Any]] | None = None) -> None:
        self.app = GpuReclaimHub(prefix=PREFIX, db_url=db_url, policies=policies or [])
        self.tokens = {user: server_token(user, "", ("course",)) for user in ("ada", "bob")}
        self.service: Service
        self._started = AsyncExitStack()

    async def __aenter__(self) -> ServiceHere:
        HubOAuth.clear_instance()
        hub, port = bind_unused_port()
        hub_server = HTTPServer(stand_in(self.tokens))
        hub_server.add_socket(hub)
        self._started.callback(hub_server.stop)
        HubOAuth.instance(
            api_url=f"http://127.0.0.1:{port}/hub/api",
            api_token="the service's own",
            oauth_client_id="service-gpu-reclaim",
            access_scopes={"access:services!service=gpu-reclaim"},
            base_url=PREFIX,
        )
        self._started.callback(HubOAuth.clear_instance)
        await self.begin()
        return self

    async def begin(self, port: int = 0) -> None:
        """Start the service; also after `end`, on the same database, at the port that it had."""
        self.service = self.app.service(SystemClock())
        await self.service.start()
        (socket,) = bind_sockets(port, "127.0.0.1")
        port = socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{PREFIX}"
        self._server = HTTPServer(self.app.web(self.service), max_body_size=MOST_BODY_BYTES)
        self._server.add_socket(socket)

    async def end(self) -> None:
        """End the service, and every connection to it."""
        self._server.stop()
        await self._server.close_all_connections()
        await self.service.stop()

    async def __aexit__(self, *error: object) -> None:
        await self.end()
        await self._started.aclose()

    async def call(self, method: str, path: str, body: Any = None, token: str | None = "ada") -> HTTPResponse:
        """One request, whatever its answer. A body that is no text is sent as JSON."""
        text = body if isinstance(body, str | bytes | None) else json.dumps(body)
        return await AsyncHTTPClient().fetch(
            self.url + path,
            method=method,
            body=text,
            headers={} if token is None else {"Authorization": f"token {token}"},
            allow_nonstandard_methods=True,
            raise_error=False,
            request_timeout=40,
        )

    async def rows(self, **filters: Any) -> list[Any]:
        """The fleet's log, oldest first."""
        rows, _ = await self.service.log.query(limit=1000, **filters)
        return rows[::-1]


async def soon(condition: Any) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
