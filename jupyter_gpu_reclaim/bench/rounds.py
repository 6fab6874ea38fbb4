"""A server extension for the bench and the tests alone: keeps each round of the loop, to be replayed later.

POST to `gpu-reclaim-rounds` begins; GET replies with the rounds since then, and ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tornado.web
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join

from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.reconciler.status import Status


class Recording:
    """What the loop told its listeners. Values are kept as they come and read when asked for: a round pays nothing."""

    def __init__(self) -> None:
        self._told: list[tuple[Status, tuple[Transition, ...]]] = []
        self._end: Callable[[], None] | None = None

    def begin(self, reconciler: Any) -> None:
        """Keep what is told from now on."""
        self.end()
        self._told.clear()
        self._end = reconciler.on_change(lambda status, rows: self._told.append((status, rows)))

    def end(self) -> None:
        """Keep nothing more."""
        if self._end is not None:
            self._end()
            self._end = None

    def rounds(self) -> list[dict[str, Any]]:
        """Each round once: what was seen, with what was left of rounds before, what was decided, the log's new rows."""
        return [
            {
                "snapshot": to_json(status.snapshot),
                "short_since": to_json(status.short_since),
                "residence": to_json(status.residence),
                "decisions": to_json(status.decisions),
                "rows": to_json(rows),
            }
            for status, rows in self._told
            if status.snapshot is not None
        ]


recording = Recording()


class Rounds(APIHandler):
    """POST begins a recording, GET ends it and replies with it."""

    auth_resource = "gpu_reclaim:bench"

    @tornado.web.authenticated
    async def post(self) -> None:
        """204: the next round is kept."""
        (app,) = self.serverapp.extension_manager.extension_apps["jupyter_gpu_reclaim"]
        recording.begin(app.reconciler)
        self.set_status(204)

    @tornado.web.authenticated
    async def get(self) -> None:
        """`{"rounds": […]}`, see `Recording.rounds`."""
        recording.end()
        self.finish({"rounds": recording.rounds()})


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "jupyter_gpu_reclaim.bench.rounds"}]


def _load_jupyter_server_extension(app: Any) -> None:
    app.web_app.add_handlers(".*$", [(url_path_join(app.base_url, "gpu-reclaim-rounds"), Rounds)])
