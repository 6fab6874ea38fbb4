"""Jupyter's event bus: our transitions go out on it, interrupts and ends of kernels are heard on it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent_peer import LOG, agent_of, listening
from golden_scene import BIG, scene
from jupyter_client.provisioning import KernelProvisionerFactory
from jupyter_events import EventLogger
from jupyter_server import DEFAULT_EVENTS_SCHEMA_PATH

from jupyter_gpu_reclaim.core.model import Event, Phase, Policy, Reason, Transition
from jupyter_gpu_reclaim.core.wire import to_json
from jupyter_gpu_reclaim.reconciler import Status
from jupyter_gpu_reclaim.server.announcements import WAITING, WARNING, Announcements
from jupyter_gpu_reclaim.server.events import INTERRUPTED, KERNEL_ACTIONS, TRANSITION, Events
from jupyter_gpu_reclaim.server.injection import Injection
from jupyter_gpu_reclaim.server.kernels import AgentKernels
from jupyter_gpu_reclaim.server.link import AgentLinks

SCHEMA_FOLDER = Path(__file__).parents[2] / "jupyter_gpu_reclaim" / "server" / "event_schemas"
FULL = Transition(
    id="row",
    at=datetime(2026, 1, 1, tzinfo=UTC),
    kernel_id="k",
    event=Event.RECLAIM_DONE,
    phase=Phase.RECLAIMED,
    episode_id="episode",
    reason=Reason.IDLE,
    label="a.ipynb",
    owner="ada",
    mechanism="torch_offload",
    footprint={"A": 9},
    moved_bytes=8,
    freed_bytes={"A": 8},
    unmovable={"aliased": 1},
    took=timedelta(seconds=1.5),
    detail="why",
    actor="eve",
    simulated=True,
)


def events_of(event_logger: EventLogger, links: AgentLinks) -> Events:
    """Events that have started."""
    injection = Injection(KernelProvisionerFactory(), links, Path("startup.py"), LOG)
    events = Events(event_logger, links, AgentKernels(links, LOG), injection, LOG)
    events.start()
    return events


async def test_each_transition_is_one_valid_event(tmp_path: Path) -> None:
    """A row of the log comes out as an event with all its fields, full or nearly empty; after a restart of ours too."""
    event_logger = EventLogger()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def listener(logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
        heard.put_nowait(data)

    async with listening(tmp_path) as (links, _):
        events_of(event_logger, links).stop()
        events = events_of(event_logger, links)
        event_logger.add_listener(schema_id=TRANSITION, listener=listener)
        bare = Transition(id="bare", at=FULL.at, kernel_id="k", event=Event.KERNEL_GONE, phase=Phase.GONE)
        for row in (FULL, bare):
            events.tell(Status(policy=Policy()), (row,))
            assert await asyncio.wait_for(heard.get(), 20) == to_json(row)
        events.stop()


def test_the_schema_knows_every_field() -> None:
    """What a transition has, the event's schema describes."""
    event_logger = EventLogger()
    schema_file = Path(__file__).parents[2] / "jupyter_gpu_reclaim/server/event_schemas/transition/v1.yaml"
    event_logger.register_event_schema(schema_file)
    schema = event_logger.schemas.get(TRANSITION)._schema
    assert set(schema["properties"]) == set(to_json(FULL))
    assert schema["personal-data"] is True


async def test_interrupt_and_shutdown_of_a_kernel_are_heard(tmp_path: Path) -> None:
    """An interrupt ends the waits that SIGINT does not reach, known of yet or not; a shutdown forgets the kernel."""
    event_logger = EventLogger()
    event_logger.register_event_schema(DEFAULT_EVENTS_SCHEMA_PATH / "kernel_actions" / "v1.yaml")

    def happens(action: str, kernel_id: str, status: str = "success") -> None:
        event = {
            "action": action,
            "kernel_id": kernel_id,
            "status": status,
            "msg": "",
            "kernel_name": "python3",
        }
        event_logger.emit(schema_id=KERNEL_ACTIONS, data=event)

    async with listening(tmp_path) as (links, changes):
        events = events_of(event_logger, links)
        waits, waiting = await agent_of(links, "waits")
        idle, _ = await agent_of(links, "idle")
        waits.say("restore_wanted", cells=1)
        await changes.until(lambda: waiting.status.waiting == 1)
        happens("interrupt", "idle")
        happens("interrupt", "nobody")
        happens("interrupt", "waits")
        told = {"op": "end_wait", "message": INTERRUPTED, "interrupted": True}
        assert await waits.hear() == told
        assert await idle.hear() == told
        happens("shutdown", "waits", status="error")
        happens("restart", "waits")
        happens("shutdown", "idle")
        assert await idle.hear() == {}, "its connection ends with it"
        assert links.invited_at("idle") is None
        assert links.link("waits") is waiting
        events.stop()
        happens("shutdown", "waits")
        links.invite("other", os.getpid)
        assert links.link("waits") is waiting


async def test_warnings_and_waits_are_told_once_and_when_they_change(tmp_path: Path) -> None:
    """A warning goes out with its deadline; a wait when it begins, when its place changes, and when it is over."""
    event_logger = EventLogger()
    heard: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    async def listener(logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
        heard.put_nowait((schema_id, data))

    async with listening(tmp_path) as (links, _):
        events = events_of(event_logger, links)
        for schema_id in (WARNING, WAITING):
            event_logger.add_listener(schema_id=schema_id, listener=listener)
        status = scene()
        await tell(events, status)
        told = drained(heard)
        assert {(s, d["kernel_id"]) for s, d in told} == {
            (WARNING, "about-to-be-warned"), (WARNING, "warned"),
            (WAITING, "growing"), (WAITING, "first-in-line"), (WAITING, "second-in-line"),
        }  # fmt: skip
        warning = next(d for s, d in told if d["kernel_id"] == "warned")
        assert (warning["at"], warning["reclaim_at"]) == ("2026-01-05T13:59:30Z", "2026-01-05T14:00:30Z")
        wait = next(d for s, d in told if d["kernel_id"] == "first-in-line")
        assert wait["wait"] == to_json(status.waits["first-in-line"])
        assert wait["wait"]["holders"][-1]["label"] == "another user"
        await tell(events, status)
        assert drained(heard) == [], "nothing has changed"
        crept = {n: replace(w, missing={BIG: 1}) for n, w in status.waits.items()}
        await tell(events, replace(status, waits=crept))
        assert drained(heard) == [], "what creeps is told no more often than once a second"
        first = replace(status.waits["first-in-line"], position=1)
        await tell(events, replace(status, waits={"first-in-line": first}))
        changes = {
            d["kernel_id"]: (d["waiting"], d["wait"] and d["wait"]["position"]) for _, d in drained(heard)
        }
        assert changes == {
            "first-in-line": (True, 1),
            "growing": (False, None),
            "second-in-line": (False, None),
        }
        events.stop()


async def tell(events: Events, status: Status) -> None:
    """Tell it, and let the listeners run: jupyter_events starts a task for each."""
    before = asyncio.all_tasks()
    events.tell(status, ())
    await asyncio.gather(*(asyncio.all_tasks() - before))


def drained(queue: asyncio.Queue) -> list[Any]:
    """Everything in it."""
    return [queue.get_nowait() for _ in range(queue.qsize())]


@pytest.mark.parametrize("name", ["warning", "waiting"])
def test_the_schemas_of_what_is_told_know_every_field(name: str) -> None:
    """Whatever a warning or a wait carries is described, and marked as personal data."""
    schema = yaml.safe_load((SCHEMA_FOLDER / name / "v1.yaml").read_text())
    told = [data for schema_id, data in Announcements().of(scene()) if schema_id == schema["$id"]]
    assert told
    assert all(set(data) == set(schema["properties"]) for data in told)
    assert schema["personal-data"] is True
    if name == "waiting":
        wait = schema["properties"]["wait"]["properties"]
        assert all(set(data["wait"]) == set(wait) for data in told)
        assert all(
            set(h) == set(wait["holders"]["items"]["properties"]) for d in told for h in d["wait"]["holders"]
        )
