"""The service's process: makes the parts, puts them together, starts and stops them. Nothing is decided here."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tornado.web
from jupyterhub.services.auth import HubOAuth, HubOAuthCallbackHandler
from tornado.httpserver import HTTPServer
from traitlets import Dict, Float, Int, List, Unicode
from traitlets.config import Application

import jupyter_gpu_reclaim
from jupyter_gpu_reclaim.hub import pages, server_api
from jupyter_gpu_reclaim.hub.policies import Book, Policies, book_from, book_of
from jupyter_gpu_reclaim.hub.service import Service
from jupyter_gpu_reclaim.ports import Clock
from jupyter_gpu_reclaim.reclaim_log.retention import Retention

MOST_BODY_BYTES = 4 << 20
DEFAULT_PREFIX = "/services/gpu-reclaim/"
AT_THE_DOOR = 4096
"""Connections that wait to be taken: after a restart all servers come at once. The system may allow fewer."""
SWITCH_SECONDS = 0.0005
"""Python's interval for switching threads: at ten times that, its default, who pushes waits long while others write."""
NEW_OBJECTS_A_COLLECTION = 10_000
"""Python's default is 700: with a thousand servers all would stand still for 0.15 s every few seconds, while it looks
through all that the service keeps."""


class SystemClock:
    """`ports.Clock`: the machine's."""

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(UTC)


class GpuReclaimHub(Application):
    """Policies for all users of a JupyterHub, one log, and pages for its admins."""

    name = "jupyter-gpu-reclaim-hub"
    version = jupyter_gpu_reclaim.__version__
    description = (
        "A JupyterHub service: GPU reclaim policies for everyone, the fleet's log, pressure between servers."
    )
    aliases = {"config": "GpuReclaimHub.config_file", "db-url": "GpuReclaimHub.db_url"}  # noqa: RUF012

    config_file = Unicode("", help="A Python file with settings, `c.GpuReclaimHub.… = …`.").tag(config=True)

    db_url = Unicode(
        "sqlite:///gpu_reclaim_hub.sqlite",
        help="""Where the fleet's log and the service's own tables are kept, as an SQLAlchemy URL. The default, an
        SQLite file in the service's working directory, serves some dozen servers; use PostgreSQL for more.""",
    ).tag(config=True)

    prefix = Unicode(help="Where the service's pages are, with slashes. The Hub says so.").tag(config=True)
    url = Unicode(help="Where to listen: http://HOST:PORT. The Hub says so.").tag(config=True)

    policies = List(
        Dict(),
        help="""The rules, the first that fits counts: {"name": …, "match": {"users", "groups", "servers", "profiles",
        "gpus", "kernelspecs": patterns, "days": ["mon", …], "hours": "22:00-06:00"},
        "set": {"idle_after_seconds": 600, …}, "lock": names or "all", "priority": 0}. Default: none; each server does
        as it is configured.""",
    ).tag(config=True)

    timezone = Unicode(
        "UTC", help="""The zone of the hours and days in `policies`. The default is UTC."""
    ).tag(config=True)

    policy_file = Unicode(
        "",
        help="""A YAML file {timezone: Europe/Berlin, rules: […]} instead of `policies`. It is read anew when it
        changes; one that is wrong then changes nothing. "", the default: none.""",
    ).tag(config=True)

    keep_log_days = Float(
        400.0,
        min=0,
        max=36500,
        help="""Days after which the log's episodes are deleted. 0: never. The default: 400.""",
    ).tag(config=True)

    keep_log_rows = Int(
        0, min=0, help="""Most rows that the log keeps. 0, the default: without limit."""
    ).tag(config=True)

    cache_seconds = Int(
        300,
        min=1,
        help="""Seconds for which the Hub's answer about a token holds. A user who is put into a group, or loses a
        scope, is known to be so after that time at the latest. 300, the default, costs the Hub 4 calls a second with
        1,000 servers.""",
    ).tag(config=True)

    def _prefix_default(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_PREFIX", DEFAULT_PREFIX)

    def _url_default(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_URL", "http://127.0.0.1:8873")

    def initialize(self, argv: list[str] | None = None) -> None:
        """Read the command line and the configuration. Raises what is wrong with them."""
        self.parse_command_line(argv)
        if self.config_file:
            self.load_config_file(self.config_file)
            self.parse_command_line(argv)  # which has the last word

    def start(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        asyncio.run(self._serve())

    def web(self, service: Service) -> tornado.web.Application:
        """The service's addresses, with what answers them."""
        routes = [(r"oauth_callback", HubOAuthCallbackHandler), *server_api.ROUTES, *pages.ROUTES]
        return tornado.web.Application(
            [(self.prefix + path, *more) for path, *more in routes],
            cookie_secret=secrets.token_bytes(32),
            service=service,
            prefix=self.prefix,
            xsrf_cookies=True,
        )

    def service(self, clock: Clock) -> Service:
        """The parts behind the addresses, not yet started. Raises `BadPolicies`, OSError."""
        days, rows = self.keep_log_days, self.keep_log_rows
        retention = Retention(timedelta(days=days) if days else None, rows or None)
        return Service(self.db_url, clock, self.rules(), retention)

    def rules(self) -> Policies:
        """The operator's rules; at the start they must be in order. Raises `BadPolicies`, OSError."""
        if not self.policy_file:
            return Policies(book_of(self.policies, self.timezone))
        file = Path(self.policy_file)
        book_from(file.read_text(), file.name)
        return Policies(Book(), file)

    async def _serve(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        HubOAuth.instance(cache_max_age=self.cache_seconds)
        ending = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, ending.set)
        async with AsyncExitStack() as started:
            service = self.service(SystemClock())
            started.push_async_callback(service.stop)
            await service.start()
            gc.freeze()  # what is loaded by now stays
            gc.set_threshold(NEW_OBJECTS_A_COLLECTION)
            server = HTTPServer(self.web(service), max_body_size=MOST_BODY_BYTES, xheaders=True)
            where = urlsplit(self.url)
            server.listen(where.port or 80, where.hostname or "127.0.0.1", backlog=AT_THE_DOOR)
            started.callback(server.stop)
            self.log.info("The GPU reclaim service listens at %s%s", self.url.rstrip("/"), self.prefix)
            await ending.wait()


def main(argv: list[str] | None = None) -> Any:
    """`python -m jupyter_gpu_reclaim.hub`."""
    GpuReclaimHub.launch_instance(argv)
