"""Who asks: a browser that came by the Hub's OAuth, a program with a token, or a user's own server.

The Hub is asked without blocking, and its answer holds for `cache_max_age` (as `HubOAuth` keeps it, 5 minutes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import tornado.web
from jupyterhub.services.auth import HubOAuth, HubOAuthenticated, UserNotAllowed, check_scopes

READ, WRITE = "custom:gpu-reclaim:read", "custom:gpu-reclaim:write"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. Without a scope a user sees only what is their own."""

    name: str
    kind: str  # "user" or "service"
    scopes: frozenset[str]
    groups: frozenset[str] = frozenset()
    profiles: Mapping[str, str] = field(
        default_factory=dict
    )  # by server, as far as their token lets the Hub say it

    @property
    def may_read_all(self) -> bool:
        """Whether they may see the whole fleet. Who may change it may see it."""
        return READ in self.scopes or WRITE in self.scopes

    @property
    def may_write(self) -> bool:
        """Whether they may give orders to others' servers and set policies."""
        return WRITE in self.scopes

    def may_see(self, user: str) -> bool:
        """Whether what belongs to that user may be shown to them."""
        return self.may_read_all or (self.kind == "user" and self.name == user)

    def speaks_for(self, server: str) -> bool:
        """Whether their token is that of this server of theirs, or one that may do there whatever the server may."""
        wanted = f"access:servers!server={self.name}/{server}"
        return self.kind == "user" and bool(check_scopes({wanted}, self.scopes))


def actor_of(model: dict[str, Any]) -> Actor:
    """The actor in the Hub's answer."""
    scopes, groups = model.get("scopes", ()), model.get("groups", ())
    profiles = {name: profile_of(one) for name, one in (model.get("servers") or {}).items()}
    known = {name: profile for name, profile in profiles.items() if profile is not None}
    return Actor(model["name"], model.get("kind", "user"), frozenset(scopes), frozenset(groups), known)


def profile_of(server: Mapping[str, Any]) -> str | None:
    """As what a server was started: what spawners with a list of profiles (KubeSpawner's, wrapspawner's) note."""
    options = server.get("user_options")
    profile = options.get("profile") if isinstance(options, dict) else None
    return profile if isinstance(profile, str) and profile else None


class OwnServer(tornado.web.RequestHandler):
    """For users' servers: a token in the header and no cookies, so nothing that a browser sends by itself counts."""

    actor: Actor

    async def prepare(self) -> None:
        """Raises 401 without a token, 403 for one that the Hub does not know."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("token", "bearer") or not token:
            raise tornado.web.HTTPError(HTTPStatus.UNAUTHORIZED, reason="A token is needed")
        model = await HubOAuth.instance().user_for_token(token.strip(), sync=False)
        if model is None:
            raise tornado.web.HTTPError(HTTPStatus.FORBIDDEN, reason="The Hub does not know this token")
        self.actor = actor_of(model)

    def check_xsrf_cookie(self) -> None:
        """There is no cookie that could be abused."""


class Page(HubOAuthenticated, tornado.web.RequestHandler):
    """For people's browsers, and programs with a token. `actor` is who asks; the Hub says who may come in."""

    actor: Actor

    async def prepare(self) -> None:
        """Sends who is not logged in to the Hub, raises 403 for who may not come in or has no XSRF token."""
        self.current_user = None  # kept, here and below, so that nothing asks again and blocks
        model = await self.hub_auth.get_user(self, sync=False)
        try:
            self.current_user = None if model is None else self.check_hub_user(model)
        except UserNotAllowed:
            raise tornado.web.HTTPError(HTTPStatus.FORBIDDEN, "You may not use this service.") from None
        if self.current_user is None:
            if self.request.method in ("GET", "HEAD"):
                self.redirect(self.get_login_url())
                return
            raise tornado.web.HTTPError(HTTPStatus.FORBIDDEN)
        self.actor = actor_of(self.current_user)
        self.hub_auth.check_xsrf_cookie(self)

    def check_xsrf_cookie(self) -> None:
        """Done in `prepare`, once it is known who asks: what Tornado calls before that would block."""

    def need(self, allowed: bool, scope: str) -> None:
        """Raises 403 unless allowed."""
        if not allowed:
            raise tornado.web.HTTPError(HTTPStatus.FORBIDDEN, reason=f"This needs the scope {scope}")
