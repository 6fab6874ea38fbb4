"""The calls that a user's server makes to the Hub's service, with its own token, each in bounded time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError

CALL_SECONDS = 15.0
NEWS_SECONDS = 40.0  # the service answers after 15 at the latest
MOST_ANSWER_BYTES = 4 << 20


class ServiceAway(Exception):
    """The service cannot be reached, or not now: the same call may be made again later."""


class ServiceRefused(Exception):
    """The service has refused the call, and would again."""


class ServiceCalls:
    """`url` is that of the service, with its prefix; `server` is this server's name, "" for the user's default one."""

    def __init__(self, url: str, token: str, server: str) -> None:
        self._url = url.rstrip("/") + "/"
        self._headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        self._server = server
        self._client = AsyncHTTPClient(force_instance=True, defaults={"follow_redirects": False})

    async def put_status(self, node: str, status: Any, waiting: Any) -> None:
        """What this server says of itself."""
        await self._call("PUT", "api/status", {"node": node, "status": status, "waiting": waiting})

    async def leave(self) -> None:
        """This server ends."""
        await self._call("DELETE", "api/status", {})

    async def push_rows(self, rows: Sequence[Any]) -> list[Any]:
        """Rows of the log, as JSON. Returns those refused, [{id, message}]; the others are in the fleet's log now."""
        return (await self._call("POST", "api/transitions", {"rows": list(rows)})).get("refused", [])

    async def news(self, version: str | None) -> dict[str, Any]:
        """What this server has to know, once its version is another; after half a minute in any case."""
        return await self._call("POST", "api/news", {"version": version}, within=NEWS_SECONDS)

    async def answer(self, order_id: str, answer: str) -> None:
        """What became of an order."""
        await self._call("POST", f"api/orders/{quote(order_id, safe='')}", {"answer": answer})

    def close(self) -> None:
        """End; calls under way fail."""
        self._client.close()

    async def _call(self, method: str, path: str, body: dict[str, Any], within: float = CALL_SECONDS) -> Any:
        """Raises `ServiceAway`, `ServiceRefused`; neither message holds the token."""
        request = HTTPRequest(
            self._url + path,
            method=method,
            headers=self._headers,
            body=json.dumps({**body, "server": self._server}),
            connect_timeout=min(within, CALL_SECONDS),
            request_timeout=within,
            allow_nonstandard_methods=True,  # DELETE with a body
        )
        try:
            reply = await self._client.fetch(request)
            return json.loads(reply.body) if reply.body else {}
        except (HTTPTimeoutError, HTTPStreamClosedError, OSError, ValueError) as error:
            raise ServiceAway(
                f"The Hub's GPU service does not answer: {error or type(error).__name__}."
            ) from error
        except HTTPClientError as error:
            told = f"The Hub's GPU service answers {error.code} {_message(error)}".rstrip(". ") + "."
            if error.code in (408, 429) or not 400 <= error.code < 500:
                raise ServiceAway(told) from error  # a redirect, too: to a login page, while the Hub starts
            raise ServiceRefused(told) from error


def _message(error: HTTPClientError) -> str:
    try:
        return str(json.loads(error.response.body)["message"])[:300]
    except (AttributeError, ValueError, KeyError, TypeError):
        return str(error.message)
