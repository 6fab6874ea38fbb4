"""The borders between users' servers at the hub's service, and attempts to cross each of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fleet_words import GIB, kernel, status
from service_here import ServiceHere

from jupyter_gpu_reclaim.hub.records import Act


@pytest.fixture
def here(jp_asyncio_loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[ServiceHere]:
    """A service with an empty SQLite database."""
    service = ServiceHere(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    jp_asyncio_loop.run_until_complete(service.__aenter__())
    yield service
    jp_asyncio_loop.run_until_complete(service.__aexit__())


def row(**more: Any) -> dict[str, Any]:
    """A row as a server pushes it."""
    now = datetime.now(UTC).isoformat()
    return {
        "id": str(uuid4()),
        "at": now,
        "kernel_id": "k",
        "event": "reclaim_done",
        "phase": "reclaimed",
        **more,
    }


def said(*rows: dict[str, Any], server: str = "") -> dict[str, Any]:
    """A batch of rows."""
    return {"server": server, "rows": list(rows)}


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "api/status"), ("DELETE", "api/status"), ("POST", "api/transitions"), ("POST", "api/news"),
     ("POST", "api/orders/x")],
)  # fmt: skip
async def test_who_has_no_token_of_this_server_is_kept_out(here: ServiceHere, method: str, path: str) -> None:
    """No token, an unknown one, a cookie, a token with other scopes, and that of another server are all refused."""
    body = {"server": "", "rows": [], "status": status(), "answer": "x"}
    here.tokens["reader"] = {**here.tokens["ada"], "scopes": ["read:users!user=ada"]}
    here.tokens["other"] = {**here.tokens["ada"], "scopes": ["access:servers!server=ada/other"]}
    here.tokens["service"] = {"kind": "service", "name": "ada", "scopes": ["access:servers"]}
    assert (await here.call(method, path, body, token=None)).code == 401
    codes = [
        (await here.call(method, path, body, token=t)).code for t in ("unknown", "reader", "other", "service")
    ]
    assert codes == [403] * 4
    assert (await here.call(method, f"{path}?token=ada", body, token=None)).code == 401
    assert len(here.service.fleet) == 0


async def test_a_row_that_names_another_user_takes_its_batch_with_it(here: ServiceHere) -> None:
    """With another's name in one row nothing of the batch is written, and the answer says nothing about them."""
    reply = await here.call("POST", "api/transitions", said(row(), row(owner="bob")))
    assert (reply.code, await here.rows()) == (403, [])
    assert b"bob" not in reply.body
    reply = await here.call("POST", "api/transitions", said(row(owner="ada"), row()))
    assert json.loads(reply.body) == {"taken": 2, "refused": []}
    assert [one.owner for one in await here.rows()] == ["ada", "ada"]


async def test_a_batch_that_is_pushed_again_is_written_once(here: ServiceHere) -> None:
    """Replayed, overlapping and concurrent pushes leave each row once, and the first to be written stays as it was."""
    rows = [row() for _ in range(20)]
    await asyncio.gather(*(here.call("POST", "api/transitions", said(*rows[n:])) for n in (0, 5, 0, 10, 0)))
    await here.call("POST", "api/transitions", said(*({**one, "detail": "changed"} for one in rows)))
    await here.call(
        "POST", "api/transitions", said(*({**one, "detail": "bob's"} for one in rows)), token="bob"
    )
    kept = await here.rows()
    assert sorted(one.id for one in kept) == sorted(one["id"] for one in rows)
    assert {(one.owner, one.detail) for one in kept} == {("ada", "")}


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "a\0b"}, {"id": ""}, {"id": "x" * 3000}, {"kernel_id": "k\ud800"}, {"mechanism": "m" * 3000},
        {"footprint": {"g" * 3000: 1}}, {"footprint": {"GPU-1": -1}}, {"moved_bytes": 1 << 70},
        {"took_seconds": 1e300}, {"at": "0001-01-01T00:00:00+23:59"}, {"event": "exploded"}, {"phase": 3},
        {"at": (datetime.now(UTC) + timedelta(days=2)).isoformat()},
    ],
)  # fmt: skip
async def test_a_row_that_no_server_makes_harms_no_other(here: ServiceHere, wrong: dict[str, Any]) -> None:
    """A row that a database might choke on is refused by name; those beside it are written."""
    good = row()
    reply = await here.call("POST", "api/transitions", said(row(**wrong), good))
    answer = json.loads(reply.body)
    assert (reply.code, answer["taken"], len(answer["refused"])) == (200, 1, 1)
    assert [one.id for one in await here.rows()] == [good["id"]]


async def test_names_are_only_ever_text(here: ServiceHere) -> None:
    """SQL, HTML, NULs and endless names in a notebook's label and detail come out as the text that they are."""
    nasty = "'; DROP TABLE reclaim_transitions; --<script>alert(1)</script>\0\ud800"
    await here.call("POST", "api/transitions", said(row(label=nasty, detail=nasty), row(label="ü" * 9000)))
    first, second = await here.rows()
    assert first.label == first.detail == nasty.replace("\0", "\\x00").replace("\ud800", "\\ud800")
    assert second.label == "ü" * 400
    assert await here.rows(label="' OR 1=1 --") == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", 400), ("[]", 400), ("[" * 100_000, 400), ('{"server": 3}', 400), ('{"server": "", "rows": {}}', 400),
        (json.dumps({"server": "", "rows": [{}] * 501}), 400), ('{"server": "", "rows": [NaN]}', 400),
        (json.dumps({"server": "../bob/", "rows": []}), 403), (json.dumps({"server": "bob/", "rows": []}), 403),
    ],
)  # fmt: skip
async def test_bodies_out_of_form_are_refused(here: ServiceHere, body: str, code: int) -> None:
    """What is no batch of a server's own is refused with the kind of mistake, and never a failure of the service."""
    assert (await here.call("POST", "api/transitions", body)).code == code


async def test_bodies_out_of_bounds_are_refused(here: ServiceHere, caplog: pytest.LogCaptureFixture) -> None:
    """A status that is too long, and a body that is longer than any, are refused before they are read as JSON."""
    long = {"server": "", "status": status(kernel("k", 1, explanation="x" * (600 << 10)))}
    assert (await here.call("PUT", "api/status", long)).code == 413
    caplog.set_level(logging.CRITICAL)  # Tornado says that it closed the connection
    reply = await here.call("POST", "api/transitions", b"x" * (5 << 20))
    assert reply.code in (400, 413, 599)
    assert (await here.call("GET", "health", token=None)).code == 200


async def test_news_are_ones_own_and_come_at_once(here: ServiceHere) -> None:
    """A server gets its own orders only, within a moment of their making, and only it can answer them, once."""
    first = json.loads((await here.call("POST", "api/news", {"server": ""})).body)
    assert (first["orders"], first["pressure"], first["policy"]["rules"]) == ([], {}, [])
    asking = asyncio.create_task(here.call("POST", "api/news", {"server": "", "version": first["version"]}))
    others = asyncio.create_task(
        here.call("POST", "api/news", {"server": "", "version": first["version"]}, token="bob")
    )
    while set(here.service.bells.listening) != {("ada", ""), ("bob", "")}:
        await asyncio.sleep(0.01)
    order = await here.service.give_order(("ada", ""), "k", Act.RECLAIM, "a class begins", "root")
    news = json.loads((await asking).body)
    assert [(one["id"], one["reason"], one["actor"]) for one in news["orders"]] == [
        (order.id, "a class begins", "root")
    ]
    assert not others.done()
    here.service.bells.ring()
    answer = {"server": "", "answer": "Somebody asked for it."}
    assert (await here.call("POST", f"api/orders/{order.id}", answer, token="bob")).code == 404
    assert (await here.call("POST", f"api/orders/{order.id}", answer)).code == 204
    assert (await here.call("POST", f"api/orders/{order.id}", answer)).code == 404
    (given,) = await here.rows()
    assert (given.event.value, given.actor, given.owner, given.kernel_id) == (
        "order_given",
        "root",
        "ada",
        "k",
    )
    others.cancel()


async def test_a_wait_presses_on_others_and_an_override_reaches_everybody(here: ServiceHere) -> None:
    """One user's wait is in another's next answer as bytes on a GPU without any name; a new rule is in everybody's."""
    waits = {"server": "", "status": status(), "waiting": {"GPU-1": 4 * GIB}}
    idle = kernel("b", 4, last_active_at="2020-01-01T00:00:00Z")
    await here.call("PUT", "api/status", {"server": "", "status": status(idle)}, token="bob")
    known = json.loads((await here.call("POST", "api/news", {"server": ""}, token="bob")).body)
    pressed = asyncio.create_task(
        here.call("POST", "api/news", {"server": "", "version": known["version"]}, token="bob")
    )
    assert (await here.call("PUT", "api/status", waits)).code == 204
    reply = await pressed
    news = json.loads(reply.body)
    assert (news["pressure"], b"ada" in reply.body) == ({"GPU-1": 4 * GIB}, False)
    assert (await here.call("DELETE", "api/status", {"server": ""})).code == 204
    rule = {"match": {"groups": ["course"]}, "set": {"idle_after_seconds": 5}}
    number = await here.service.set_override(rule, "an exam", "root", None)
    for user in ("ada", "bob"):
        told = json.loads((await here.call("POST", "api/news", {"server": ""}, token=user)).body)
        assert [one["set"] for one in told["policy"]["rules"]] == [{"idle_after_seconds": 5.0}]
    assert await here.service.end_override(number, "root2")
    changes = [(one.event.value, one.actor) for one in await here.rows()]
    assert changes == [("policy_changed", "root"), ("policy_changed", "root2")]


async def test_a_profile_is_what_the_hub_says_not_the_server(here: ServiceHere) -> None:
    """A rule by profile is for the server that the Hub started with it, whatever a status claims of itself."""
    rule = {"match": {"profiles": ["large"]}, "set": {"idle_after_seconds": 5}}
    await here.service.set_override(rule, "", "root", None)
    small = {"": {"user_options": {"profile": "small"}}, "big": {"user_options": {"profile": "large"}}}
    here.tokens["ada"]["servers"] = small
    here.tokens["ada's big"] = {**here.tokens["ada"], "scopes": ["access:servers!server=ada/big"]}
    here.tokens["bob"]["servers"] = {"": {"user_options": ["large"]}}
    found = {}
    for token, server in (("ada", ""), ("ada's big", "big"), ("bob", "")):
        said = {"server": server, "status": {**status(), "profile": "large"}, "profile": "large"}
        assert (await here.call("PUT", "api/status", said, token)).code == 204
        told = json.loads((await here.call("POST", "api/news", {"server": server}, token)).body)
        found[token] = len(told["policy"]["rules"])
    assert found == {"ada": 0, "ada's big": 1, "bob": 0}
    assert [one.profile for one in here.service.fleet] == ["small", "large", None]


async def test_no_token_is_ever_logged(here: ServiceHere, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes right or wrong, no token appears in what the service logs."""
    caplog.set_level(logging.DEBUG)
    here.tokens["s3cret-token"] = here.tokens["ada"]
    await here.call("POST", "api/transitions", said(row()), token="s3cret-token")
    await here.call("POST", "api/transitions", said(row(owner="bob")), token="s3cret-token")
    await here.call("POST", "api/transitions", "[", token="s3cret-unknown")
    assert caplog.records
    assert "s3cret" not in caplog.text
