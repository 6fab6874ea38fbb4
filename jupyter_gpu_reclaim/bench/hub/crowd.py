"""The load: many servers through the product's own calls, and an admin who looks at every page meanwhile."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from itertools import count

from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer

from jupyter_gpu_reclaim.bench import Refused
from jupyter_gpu_reclaim.bench.hub import server_words
from jupyter_gpu_reclaim.bench.hub.hub_stand_in import admin_token, server_token, stand_in
from jupyter_gpu_reclaim.bench.hub.service_process import ServiceProcess
from jupyter_gpu_reclaim.hub_link.service_calls import ServiceCalls

STATUS_EVERY_SECONDS, TRANSITIONS_A_SECOND, PAGE_EVERY_SECONDS = 10.0, 50, 3.0
WINDOW_SECONDS = 5.0
NEW_OBJECTS_A_COLLECTION = 100_000
PAGES = ("", "servers", "servers?q=user00&sort=user", "server?user=user0007", "log", "log?user=user0007", "orders",
         "policies?user=user0007", "report")  # fmt: skip
ADMIN = "the admin's"


@dataclass
class Heard:
    """Seconds of each push and page, and what the service took of the machine, since the warm-up's end."""

    seconds: float = 0.0
    statuses: list[float] = field(default_factory=list)
    transitions: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    pages: dict[str, list[float]] = field(default_factory=dict)


class Crowd:
    """`servers` of them against the service."""

    def __init__(self, service: ServiceProcess, servers: int) -> None:
        self._service = service
        self._calls = [ServiceCalls(service.url, server_words.user(number), "") for number in range(servers)]
        tokens = {
            server_words.user(number): server_token(server_words.user(number), "", (f"course-{number % 9}",))
            for number in range(servers)
        }
        self._tokens = {**tokens, ADMIN: admin_token("root")}
        self._heard = Heard()

    async def play(self, warm_up: float, seconds: float) -> Heard:
        """The load for so long. Raises `Refused` if a call of it failed: no figure is good then."""
        # Or the time that this process stands still counts as the service's.
        gc.set_threshold(NEW_OBJECTS_A_COLLECTION)
        hub = HTTPServer(stand_in(self._tokens))
        hub.add_socket(self._service.hub_socket)
        load = [asyncio.create_task(self._speak(number)) for number in range(len(self._calls))]
        load += [asyncio.create_task(self._listen(number)) for number in range(len(self._calls))]
        load += [asyncio.create_task(self._log(first)) for first in range(TRANSITIONS_A_SECOND)]
        try:
            await _while_none_ends(asyncio.sleep(warm_up), load)
            self._heard = Heard(seconds=seconds)
            load.append(asyncio.create_task(self._look()))
            await _while_none_ends(self._measure(seconds), load)
            return self._heard
        except Exception as error:
            raise Refused(
                f"the load could not be kept up: {error!r}\n{self._service.log()[-3000:]}"
            ) from error
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
            for calls in self._calls:
                calls.close()
            hub.stop()

    async def _speak(self, number: int) -> None:
        """A status every ten seconds, servers spread evenly over these."""
        said, waiting = server_words.status(number, server_words.now()), server_words.waiting(number)
        pace = _Pace(STATUS_EVERY_SECONDS, number / len(self._calls) * STATUS_EVERY_SECONDS)
        node = f"node-{number // server_words.GPUS:03}"
        for turn in count():
            await pace.next()
            body = server_words.changed(said, turn, server_words.now())
            push = self._calls[number].put_status(node, body, waiting)
            self._heard.statuses.append(await _timed(push))

    async def _listen(self, number: int) -> None:
        """A server always has a question open, once it has said its first status."""
        calls, version = self._calls[number], None
        await asyncio.sleep((1 + number / len(self._calls)) * STATUS_EVERY_SECONDS)
        while True:
            version = (await calls.news(version))["version"]

    async def _log(self, first: int) -> None:
        """One row a second, each by another server."""
        pace = _Pace(1.0, first / TRANSITIONS_A_SECOND)
        for number in count(first, TRANSITIONS_A_SECOND):
            await pace.next()
            push = self._calls[number % len(self._calls)].push_rows(
                [server_words.row(number, server_words.now())]
            )
            self._heard.transitions.append(await _timed(push))

    async def _look(self) -> None:
        """Each page in turn."""
        client = AsyncHTTPClient(force_instance=True)
        headers = {"Authorization": f"token {ADMIN}"}
        while True:
            for page in PAGES:
                await asyncio.sleep(PAGE_EVERY_SECONDS)
                took = await _timed(
                    client.fetch(self._service.url + page, headers=headers, request_timeout=60)
                )
                self._heard.pages.setdefault(page, []).append(took)

    async def _measure(self, seconds: float) -> None:
        """CPU and memory of the service, in windows."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            began, before = time.monotonic(), self._service.cpu_seconds()
            await asyncio.sleep(min(WINDOW_SECONDS, left))
            used = self._service.cpu_seconds() - before
            self._heard.cores.append(used / (time.monotonic() - began))
            self._heard.mib.append(self._service.mib())


class _Pace:
    """Instants of a plan: what is late does not move the next, so a slow service is not spared."""

    def __init__(self, every: float, first: float) -> None:
        self._every = every
        self._at = time.monotonic() + first

    async def next(self) -> None:
        await asyncio.sleep(max(0.0, self._at - time.monotonic()))
        self._at += self._every


async def _timed(call: Awaitable[object]) -> float:
    began = time.perf_counter()
    await call
    return time.perf_counter() - began


async def _while_none_ends(work: Awaitable[None], load: list[asyncio.Task]) -> None:
    """Raises what ends one of the load's tasks: none of them should."""
    mine = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({mine, *load}, return_when=asyncio.FIRST_COMPLETED)
    if mine not in done:
        mine.cancel()
    for task in done:
        task.result()
