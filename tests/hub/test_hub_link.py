"""A real Jupyter server linked to the service: rules, rows, orders and others' waits, with the service going away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fleet_words import kernel, status
from service_here import ServiceHere, soon

from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook
from jupyter_gpu_reclaim.hub.records import Act
from jupyter_gpu_reclaim.sim.board import Board, MiB
from jupyter_gpu_reclaim.sim.environment import environment

ADA = ("ada", "")
HELD_BYTES = 96 * MiB
SETTINGS = {
    "GpuReclaim.idle_after_seconds": 3600,
    "GpuReclaim.pressure_idle_after_seconds": 0,
    "GpuReclaim.warn_before_seconds": 0,
    "GpuReclaim.cooldown_seconds": 0,
    "GpuReclaim.min_reclaim_bytes": 0,
    "GpuReclaim.host_reserve_bytes": 0,
    "GpuReclaim.tick_seconds": 0.2,
    "GpuReclaim.sample_seconds": 0.2,
}


class Linked:
    """The service, ada's server with one notebook that holds 96 MiB, and the loop for all of them."""

    def __init__(self, folder: Path, board: Board) -> None:
        self.hub = ServiceHere(f"sqlite:///{folder / 'hub.sqlite'}")
        self.runner = asyncio.Runner()
        self._folder = folder
        self._board = board
        self.server: JupyterServer
        self.notebook: OpenNotebook

    async def start(self) -> None:
        """Both, and the notebook's data on the GPU."""
        await self.hub.__aenter__()
        self.hub.tokens["a token"] = self.hub.tokens["ada"]
        told = {
            "JUPYTERHUB_API_TOKEN": "a token",
            "JUPYTERHUB_USER": "ada",
            "JUPYTER_GPU_RECLAIM_HUB_URL": self.hub.url,
            "JUPYTER_GPU_RECLAIM_NODE": "the machine",
        }
        settings = {**SETTINGS, "GpuReclaim.node_dir": str(self._folder)}
        self.server = JupyterServer(self._folder, settings, {**environment(self._board.path), **told})
        await self.server.__aenter__()
        self.notebook = await self.server.open_notebook("a.ipynb")
        await self.notebook.run(
            "import torch\ntorch.set_num_threads(1)\n"
            "x = torch.arange(24 * 2**20, dtype=torch.int32).to('simgpu')"
        )
        await self.until(lambda row: row["mechanism"] and row["footprint_bytes"] >= HELD_BYTES)

    async def end(self) -> None:
        """Server first: it says goodbye."""
        await self.server.__aexit__(None, None, None)
        assert self.hub.service.fleet.get(ADA) is None
        await self.hub.__aexit__()

    async def until(self, condition: Any) -> dict[str, Any]:
        """The kernel's row of the server's own status, once `condition` holds for it."""
        row: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(60):
                while row is None or not condition(row):
                    rows = (await self.server.status())["kernels"]
                    row = next((one for one in rows if one["kernel_id"] == self.notebook.kernel_id), None)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"it did not come about; last: {row}\n{self.server.log_tail(40)}") from None
        return row

    async def shown(self, condition: Any) -> dict[str, Any]:
        """What the server's status says of the hub, once `condition` holds for it."""
        async with asyncio.timeout(60):
            while not condition(hub := (await self.server.status())["hub"]):
                await asyncio.sleep(0.05)
        return hub

    async def run_a_cell(self) -> None:
        """One that uses the data, whose last number says that it is all there."""
        assert await self.notebook.run(
            "print(int(x[-1]), bool((x.cpu() == torch.arange(24 * 2**20)).all()))"
        ) == (f"{24 * 2**20 - 1} True\n")
        await self.until(lambda row: row["phase"] == "resident" and row["running_since"] is None)


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Linked]:
    """One for all tests here, which leave the notebook on the GPU and no rule behind."""
    folder = tmp_path_factory.mktemp("linked")
    with Board.create(
        folder / "board", [("Simulated A100", 256 * MiB)], context_bytes=16 * MiB, poison=True
    ) as board:
        linked = Linked(folder, board)
        linked.runner.run(linked.start())
        yield linked
        linked.runner.run(linked.end())
        linked.runner.close()


def test_a_rule_takes_effect_without_a_restart(linked: Linked) -> None:
    """A rule for a group bounds the policy of a running server, is shown as locked, and its end lifts it again."""

    async def scenario() -> None:
        override = {
            "match": {"groups": ["course"], "gpus": ["*A100*"]},
            "set": {"idle_after_seconds": 0},
            "lock": "all",
        }
        number = await linked.hub.service.set_override(override, "an exam", "root", None)
        await linked.until(lambda row: row["phase"] == "reclaimed")
        hub = await linked.shown(lambda hub: hub["rule"] is not None)
        assert hub["connected"]
        assert hub["rule"]["where"] == f"override {number} by root"
        assert hub["settings"] == {"idle_after_seconds": {"value": 0.0, "by": "rule", "locked": True}}
        await linked.hub.service.end_override(number, "root")
        assert (await linked.shown(lambda hub: hub["rule"] is None))["settings"] == {}
        async with asyncio.timeout(60):
            while (await linked.server.status())["policy"]["idle_after_seconds"] != 3600.0:
                await asyncio.sleep(0.05)
        await linked.run_a_cell()

    linked.runner.run(scenario())


def test_a_rule_for_a_kernelspec_holds_for_such_kernels(linked: Linked) -> None:
    """A notebook whose spec has a rule is reclaimed by it, pinned for no longer than it says, and shown with it."""

    async def scenario() -> None:
        rule = {
            "name": "pythons",
            "match": {"kernelspecs": ["python*"], "users": ["ada"]},
            "set": {"idle_after_seconds": 0, "max_pin_seconds": 60},
        }
        number = await linked.hub.service.set_override(rule, "", "root", None)
        await linked.until(lambda row: row["phase"] == "reclaimed")
        hub = await linked.shown(lambda hub: hub["kernelspecs"])
        assert hub["rule"] is None
        (shown,) = hub["kernelspecs"]
        assert (shown["kernelspecs"], shown["rule"]["name"]) == (["python*"], "pythons")
        assert shown["settings"]["max_pin_seconds"] == {"value": 60.0, "by": "rule", "locked": False}
        policy = (await linked.server.status())["policy"]
        assert (policy["idle_after_seconds"], policy["max_pin_seconds"]) == (3600.0, 43200.0)
        pin = f"/gpu-reclaim/api/kernels/{linked.notebook.kernel_id}/pin"
        refused = await linked.server.request("PUT", pin, {"seconds": 3600}, accept=(400,))
        assert refused["reason"] == "invalid_pin"
        await soon(lambda: linked.hub.service.fleet.get(ADA).kernels[0].pressure_idle_after == timedelta(0))
        await linked.hub.service.end_override(number, "root")
        await linked.shown(lambda hub: not hub["kernelspecs"])
        await linked.run_a_cell()

    linked.runner.run(scenario())


def test_an_order_is_carried_out_and_shown_with_its_reason(linked: Linked) -> None:
    """An administrator's order goes the way of every wish, has its actor in the log, its reason before the user."""

    async def scenario() -> None:
        service, kernel_id = linked.hub.service, linked.notebook.kernel_id
        await soon(lambda: service.fleet.get(ADA) is not None)
        until = datetime.now(UTC) + timedelta(hours=1)
        await service.give_order(ADA, kernel_id, Act.PIN, "your talk is at noon", "root", until)
        await linked.until(lambda row: row["pinned_until"] is not None)
        await service.give_order(ADA, kernel_id, Act.UNPIN, "it is over", "root")
        await service.give_order(ADA, "no-such-kernel", Act.RECLAIM, "a slip", "root")
        await service.give_order(ADA, kernel_id, Act.RECLAIM, "a class begins", "root")
        await linked.until(lambda row: row["phase"] == "reclaimed")
        hub = await linked.shown(lambda hub: len(hub["orders"]) == 4)
        assert [(one["act"], one["reason"], one["answer"]) for one in hub["orders"]] == [
            ("pin", "your talk is at noon", "It stays on the GPU until then."),
            ("unpin", "it is over", "It is no longer kept on the GPU."),
            ("reclaim", "a slip", "There is no kernel no-such-kernel."),
            ("reclaim", "a class begins", "It is being done."),
        ]
        async with asyncio.timeout(20):
            while await service.store.open_orders(*ADA):
                await asyncio.sleep(0.05)
        await linked.run_a_cell()
        asked_for = ("pinned", "unpinned", "reclaim_started")
        async with asyncio.timeout(20):
            while not any(row.event.value == "restore_done" for row in (await linked.hub.rows())[-1:]):
                await asyncio.sleep(0.05)
        rows = [row for row in await linked.hub.rows(kernel_id=kernel_id) if row.actor == "root"]
        assert [row.event.value for row in rows if row.event.value in asked_for] == list(asked_for)
        assert {row.owner for row in rows} == {"ada"}

    linked.runner.run(scenario())


def test_anothers_wait_makes_an_idle_kernel_give_way(linked: Linked) -> None:
    """A restore that waits on another server, known only to the service, takes the room of an idle kernel here."""

    async def scenario() -> None:
        gpu = (await linked.server.status())["gpus"][0]
        said = status()
        said["gpus"] = [gpu]
        waits = {"server": "", "status": said, "waiting": {gpu["uuid"]: 200 * MiB}}
        assert (await linked.hub.call("PUT", "api/status", waits, token="bob")).code == 204
        row = await linked.until(lambda row: row["phase"] in ("reclaiming", "reclaimed"))
        await linked.until(lambda row: row["phase"] == "reclaimed")
        log = await linked.server.request(
            "GET", f"/gpu-reclaim/api/log?kernel_id={row['kernel_id']}&event=reclaim_started"
        )
        assert log["transitions"][0]["reason"] == "admission"
        assert (await linked.hub.call("DELETE", "api/status", {"server": ""}, token="bob")).code == 204
        await linked.run_a_cell()

    linked.runner.run(scenario())


def test_a_service_that_goes_and_comes_back_misses_nothing(linked: Linked) -> None:
    """While it is away cells, reclaims and the last rule go on as they were; then it has every row once."""

    async def scenario() -> None:
        rule = {"set": {"max_pin_seconds": 60}}
        number = await linked.hub.service.set_override(rule, "", "root", None)
        await linked.shown(lambda hub: hub["rule"] is not None)
        await linked.hub.end()
        for _ in range(3):
            where = f"/gpu-reclaim/api/kernels/{linked.notebook.kernel_id}/reclaim"
            await linked.until(lambda row: row["decision"]["reason"] == "recently_active")
            await linked.server.request("POST", where, {})
            await linked.until(lambda row: row["phase"] == "reclaimed")
            await linked.run_a_cell()
        hub = await linked.shown(lambda hub: not hub["connected"] and hub["rows_waiting"])
        assert hub["rule"] is not None
        assert "does not answer" in hub["problem"]
        port = int(linked.hub.url.split(":")[2].split("/")[0])
        await linked.hub.begin(port)
        await linked.shown(lambda hub: hub["connected"] and not hub["rows_waiting"])
        own = await linked.server.request("GET", "/gpu-reclaim/api/log?limit=1000")
        theirs = [
            row for row in await linked.hub.rows() if row.event.value not in ("order_given", "policy_changed")
        ]
        assert sorted(row.id for row in theirs) == sorted(row["id"] for row in own["transitions"])
        assert len({row.id for row in theirs}) == len(theirs) > 12
        await linked.hub.service.end_override(number, "root")
        await linked.shown(lambda hub: hub["rule"] is None)

    linked.runner.run(scenario())


def test_the_last_rules_are_kept_on_disk(linked: Linked) -> None:
    """What the service said last lies on disk beside the server's other data."""
    kept = json.loads((linked._folder / "data" / "gpu_reclaim" / "hub_policy.json").read_text())
    assert kept == {"zone": "UTC", "rules": []}


def test_a_server_in_a_container_is_shown_on_its_machine(linked: Linked) -> None:
    """The service knows the machine by the name that the operator gave the server, not by the container's."""
    linked.runner.run(soon(lambda: linked.hub.service.fleet.get(ADA) is not None))
    assert linked.hub.service.fleet.get(ADA).node == "the machine"


def test_status_words_are_those_of_a_real_server(linked: Linked) -> None:
    """What the tests' made-up servers say has the shape of what a real one pushed."""
    stored = linked.runner.run(linked.hub.service.store.server(*ADA))
    made = status(kernel("k", 1))
    assert made.keys() <= stored.status.keys()
    assert made["kernels"][0].keys() <= stored.status["kernels"][0].keys()
