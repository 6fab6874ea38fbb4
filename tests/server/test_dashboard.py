"""The Grafana dashboard in docs/grafana: each of its queries is about metrics there are, and Prometheus answers it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes import GIB, World
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from test_metrics import metrics
from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import url_concat

from jupyter_gpu_reclaim.core.model import Policy
from jupyter_gpu_reclaim.reconciler import Reconciler

BOARD = Path(__file__).parents[2] / "docs" / "grafana" / "gpu-reclaim.json"
PATIENCE_SECONDS = 60
GRAFANAS_OWN = {"$__rate_interval": "10s", "$__range": "1h"}


def queries() -> dict[str, str]:
    """Each query of the dashboard, by its panel's title and its letter."""
    panels = json.loads(BOARD.read_text())["panels"]
    return {f"{p['title']} {t['refId']}": t["expr"] for p in panels for t in p["targets"]}


async def a_day() -> CollectorRegistry:
    """The metrics after a kernel was reclaimed, came back, and left something in place."""
    world = World(g0=16 * GIB)
    made, registry = metrics(waiting=3)
    policy = replace(Policy(), pressure_idle_after=timedelta(0), warn_before=timedelta(0))
    one = Reconciler(world.observer, world.kernels_port, world.log, world.clock, policy)
    one.on_change(made.see)
    world.start("a", idle=timedelta(hours=1), g0=10 * GIB)
    for turn in range(4):
        if turn == 2:
            world.run_cell("a")
        await one.tick()
        await one.quiet()
        world.clock.advance(seconds=5)
    status = one.status()
    (holding,) = status.snapshot.holdings
    left = replace(holding, unmovable={"exported": GIB})
    made.see(replace(status, snapshot=replace(status.snapshot, holdings=(left,))), ())
    return registry


async def test_each_query_is_about_metrics_there_are() -> None:
    """Every metric that a panel names is one that the server tells."""
    told = generate_latest(await a_day()).decode()
    there_are = set(re.findall(r"^# TYPE (jupyter_gpu_reclaim_\w+)", told, re.MULTILINE))
    there_are |= {f"{name}_bucket" for name in there_are}
    named = {name for query in queries().values() for name in re.findall(r"jupyter_gpu_reclaim_\w+", query)}
    assert named
    assert named <= there_are


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus here (Debian: prometheus)")
async def test_a_real_prometheus_answers_each_query(tmp_path: Path) -> None:
    """Prometheus has scraped our metrics and gives at least one value for each query of the dashboard."""
    server, thread = start_http_server(0, addr="127.0.0.1", registry=await a_day())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scraped = {"job_name": "jupyter", "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}]}
    told = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scraped]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(told))  # JSON is YAML
    prometheus = subprocess.Popen(
        ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
    )  # fmt: skip
    try:
        for name, query in queries().items():
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not await _asked(port, query):
                        assert prometheus.poll() is None
                        await asyncio.sleep(0.2)  # until it has scraped often enough for a rate
            except TimeoutError:
                raise AssertionError(f"no value for {name}: {query}") from None
    finally:
        prometheus.terminate()
        prometheus.wait(PATIENCE_SECONDS)
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE_SECONDS)


async def _asked(port: int, query: str) -> list[Any]:
    for variable, value in GRAFANAS_OWN.items():
        query = query.replace(variable, value)
    try:
        reply = await AsyncHTTPClient().fetch(
            url_concat(f"http://127.0.0.1:{port}/api/v1/query", {"query": query})
        )
    except OSError:  # it is still starting
        return []
    return json.loads(reply.body)["data"]["result"]
