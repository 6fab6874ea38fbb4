"""What a JupyterHub answers to "whose token is this?", for as many users as wanted, without their servers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tornado.web


def server_token(user: str, server: str = "", groups: tuple[str, ...] = ()) -> dict[str, Any]:
    """The Hub's model for the token that it gives a user's server (JupyterHub 6.1: role `server`)."""
    return {
        "kind": "user",
        "name": user,
        "groups": list(groups),
        "scopes": [f"access:servers!server={user}/{server}", f"users:activity!user={user}"],
    }


def admin_token(name: str) -> dict[str, Any]:
    """The Hub's model for a token of somebody who may do all that the service offers."""
    scopes = ["access:services!service=gpu-reclaim", "custom:gpu-reclaim:read", "custom:gpu-reclaim:write"]
    return {"kind": "user", "name": name, "groups": [], "scopes": scopes}


class WhoAmI(tornado.web.RequestHandler):
    """GET /hub/api/user, as JupyterHub answers it."""

    def initialize(self, tokens: Mapping[str, Mapping[str, Any]]) -> None:
        """`tokens` is what the Hub knows."""
        self._tokens = tokens

    def get(self) -> None:
        """The model of the token's owner, or 403."""
        model = self._tokens.get(self.request.headers.get("Authorization", "").removeprefix("token "))
        if model is None:
            raise tornado.web.HTTPError(403)
        self.finish(json.dumps(model))


def stand_in(tokens: Mapping[str, Mapping[str, Any]]) -> tornado.web.Application:
    """The Hub's API, as far as the service's handlers of servers ask it."""
    return tornado.web.Application([(r"/hub/api/user", WhoAmI, {"tokens": tokens})])
