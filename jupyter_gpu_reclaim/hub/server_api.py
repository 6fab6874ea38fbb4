"""What users' servers ask and tell."""

from __future__ import annotations

import tornado.web


class HealthHandler(tornado.web.RequestHandler):
    """Whether the process answers."""

    def get(self) -> None:
        """GET health."""
        self.finish({"status": "ok"})


ROUTES = [(r"health", HealthHandler)]
