"""A server extension for the bench alone: how long callbacks hold the server's event loop, ours and all others'.

It times every `asyncio.Handle` the loop runs. asyncio's own debug mode does that too, but slows every callback.
Ours are the steps of our coroutines, with whatever they call, and the callbacks that our modules define.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import tornado.web
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join

OURS = "jupyter_gpu_reclaim"
longest: dict[str, float] = {"ours": 0.0, "others": 0.0}
who: dict[str, str] = {"ours": "", "others": ""}
used: dict[str, float] = {"ours": 0.0, "others": 0.0}  # CPU seconds of the loop's thread since the start


def owner(callback: Any) -> str:
    """The file of the coroutine that a callback steps, else the module of the callback itself."""
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        code = getattr(task.get_coro(), "cr_code", None)
        return f"{code.co_filename}:{code.co_name}" if code else repr(task.get_coro())
    return f"{getattr(callback, '__module__', None)}:{getattr(callback, '__qualname__', callback)}"


def timed_run(self: asyncio.Handle, run: Any = asyncio.Handle._run) -> None:
    """`Handle._run`, timed; the longest of each kind is kept, and all CPU time summed up."""
    name = owner(self._callback)
    kind = "ours" if OURS in name and "loop_probe" not in name else "others"
    began, worked = time.perf_counter(), time.thread_time()
    run(self)
    used[kind] += time.thread_time() - worked
    took = time.perf_counter() - began
    if took > longest[kind]:
        longest[kind], who[kind] = took, name


class Probe(APIHandler):
    """GET answers the longest callbacks since the last GET and starts anew; CPU time is summed up from the start."""

    auth_resource = "gpu_reclaim:bench"

    @tornado.web.authenticated
    async def get(self) -> None:
        """`{"ours": seconds, "others": seconds, "who": {…}, "cpu": {"ours": seconds, "others": seconds}}`."""
        self.finish({**longest, "who": dict(who), "cpu": dict(used)})
        longest.update(ours=0.0, others=0.0)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "jupyter_gpu_reclaim.bench.loop_probe"}]


def _load_jupyter_server_extension(app: Any) -> None:
    asyncio.Handle._run = timed_run  # type: ignore[method-assign]
    app.web_app.add_handlers(".*$", [(url_path_join(app.base_url, "gpu-reclaim-bench"), Probe)])
