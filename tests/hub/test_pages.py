"""The service's pages: what they show, to whom, and that nothing that a name holds becomes markup or an order."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fleet_words import GIB, kernel, status
from service_here import ServiceHere
from tornado.httpclient import HTTPResponse

from jupyter_gpu_reclaim.hub.auth import READ, WRITE
from jupyter_gpu_reclaim.hub.records import Act
from jupyter_gpu_reclaim.hub.usage import FleetUsage
from jupyter_gpu_reclaim.report import making

HOSTILE = (
    "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>{{7*7}}%s'; DROP TABLE reclaim_hub_servers;--"
)
PAGES = ("", "servers", "server?user=ada", "log", "orders", "policies", "report")
COME_IN = "access:services!service=gpu-reclaim"
POLICIES = [
    {"name": "course", "match": {"groups": ["course"]}, "set": {"idle_after_seconds": 300}, "lock": "all"},
    {"name": "all", "set": {"idle_after_seconds": 1200}},
]


def person(name: str, *scopes: str) -> dict[str, object]:
    """The Hub's model of somebody's browser."""
    return {"kind": "user", "name": name, "groups": [], "scopes": [COME_IN, *scopes]}


@pytest.fixture
def here(jp_asyncio_loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[ServiceHere]:
    """A service that ada's and bob's servers have spoken to, and people with and without scopes."""
    service = ServiceHere(f"sqlite:///{tmp_path / 'hub.sqlite'}", POLICIES)
    service.tokens["admin"] = person("root", READ, WRITE)
    service.tokens["reader"] = person("eve", READ)
    service.tokens["ada's browser"] = person("ada")
    service.tokens["stranger"] = {**person("mallory"), "scopes": [READ]}

    async def begin() -> None:
        await service.__aenter__()
        away = kernel("away", 3, phase="reclaimed", decision={"act": "keep", "reason": "already_reclaimed"})
        for user, said in (
            ("ada", status(kernel("k1", 4), away, used_gib=10)),
            ("bob", status(kernel("k2", 5, idle_minutes=None), used_gib=10)),
        ):
            reply = await service.call(
                "PUT", "api/status", {"server": "", "node": "n1", "status": said}, user
            )
            assert reply.code == 204

    jp_asyncio_loop.run_until_complete(begin())
    yield service
    jp_asyncio_loop.run_until_complete(service.__aexit__())


async def post(here: ServiceHere, path: str, token: str = "admin", **fields: str) -> HTTPResponse:
    """A form, sent as a program with that token does."""
    return await here.call("POST", path, urlencode(fields), token)


def words(reply: HTTPResponse) -> str:
    """What the page says, without its markup."""
    assert reply.code == 200, reply.body
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", reply.body.decode())).split())


# -- what is shown -----------------------------------------------------------------------------------------------------


async def test_the_overview_adds_the_fleet_up(here: ServiceHere) -> None:
    """The first page has what was given back, what is held, each GPU once, and who keeps what for nothing."""
    said = words(await here.call("GET", "", token="admin"))
    assert "Given back now 3.0 GiB Held 9.0 GiB Of 16.0 GiB" in said
    assert "kernels 9.0 GiB others 1.0 GiB free 6.0 GiB given back 3.0 GiB" in said
    assert "ada k1.ipynb 4.0 GiB" in said
    idle = said[said.index("Idle for longest") : said.index(" n1 ")]
    assert "k1.ipynb" in idle
    assert "k2.ipynb" not in idle  # it is at work
    assert "away.ipynb" not in idle  # it keeps nothing


async def test_a_waiting_cell_is_shown_first(here: ServiceHere) -> None:
    """Whose cell waits stands on the first page, with what it needs and why it waits."""
    waits = kernel("w", 8, phase="reclaimed", decision={"act": "wait", "reason": "no_room"}, waiting=1)
    waits |= {"restore_wanted_at": waits["last_active_at"], "explanation": "Waiting for room: 2.0 GiB short."}
    body = {"server": "", "node": "n1", "status": status(waits), "waiting": {"GPU-1": 2 * GIB}}
    assert (await here.call("PUT", "api/status", body, "bob")).code == 204
    said = words(await here.call("GET", "", token="admin"))
    assert "Waiting 1" in said
    assert said.index("w.ipynb 8.0 GiB") < said.index("Idle for longest")
    assert "2.0 GiB short." in said
    assert "waited for 2.0 GiB" in said


async def test_servers_are_paged_sorted_and_searched(here: ServiceHere) -> None:
    """Of 120 servers a page shows 50; every server is on exactly one page, in the order that was asked for."""
    for number in range(118):
        user = f"user{number:03}"
        here.tokens[user] = {**here.tokens["bob"], "name": user, "scopes": [f"access:servers!server={user}/"]}
        body = {"server": "", "node": "n2", "status": status(kernel("k", number / 16))}
        assert (await here.call("PUT", "api/status", body, user)).code == 204
    found: list[str] = []
    for page in (1, 2, 3):
        reply = await here.call("GET", f"servers?sort=held&page={page}", token="admin")
        users = re.findall(r"server\?user=(\w+)", reply.body.decode())
        assert len(users) == (50, 50, 20)[page - 1]
        found += users
    assert sorted(found) == sorted(["ada", "bob", *(f"user{number:03}" for number in range(118))])
    assert found[:2] == ["user117", "user116"]
    said = words(await here.call("GET", "servers?q=USER00", token="admin"))
    assert "10 servers" in said
    assert (await here.call("GET", "servers?sort=held;drop", token="admin")).code == 400


async def test_the_page_says_which_rule_holds_and_why(here: ServiceHere) -> None:
    """Ada's group has a rule of its own, another user has the one for all, each with the reason."""
    said = words(await here.call("GET", "policies?user=ada&groups=course", token="admin"))
    assert "course rule 1 Holds: it is the first that fits. idle_after_seconds: 300.0 (locked)" in said
    said = words(await here.call("GET", "policies?user=zoe", token="admin"))
    assert "course rule 1 Does not hold. It is for groups course; here: none known." in said
    assert "all rule 2 Holds" in said


async def test_the_page_says_which_rule_holds_for_a_kernel(here: ServiceHere) -> None:
    """A rule for a kernelspec is for such kernels alone; the server's page names it beside the kernel it is for."""
    rule = {
        "name": "notebooks of torch",
        "match": {"kernelspecs": ["torch*"]},
        "set": {"idle_after_seconds": 60},
    }
    await here.service.set_override(rule, "", "root", None)
    asked = "policies?user=zoe&kernelspec={}"
    said = words(await here.call("GET", asked.format("torch-2"), token="admin"))
    assert "zoe, kernels of torch-2," in said
    assert "notebooks of torch override 1 by root Holds: it is the first that fits." in said
    said = words(await here.call("GET", asked.format("python3"), token="admin"))
    assert "Does not hold. It is for kernelspecs torch*; here: 'python3'." in said
    assert "all rule 2 Holds" in said
    kernels = kernel("k1", 4, kernel_name="torch-2"), kernel("k3", 1, kernel_name="python3")
    body = {"server": "", "node": "n1", "status": status(*kernels)}
    assert (await here.call("PUT", "api/status", body, "ada")).code == 204
    said = words(await here.call("GET", "server?user=ada", token="admin"))
    assert "rule “course” (rule 1)" in said
    assert said.count("rule “notebooks of torch” for torch-2 (override 1 by root)") == 1
    assert "for python3" not in said


# -- who may what ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
async def test_nobody_comes_in_unknown(here: ServiceHere, path: str) -> None:
    """Without a login each page leads to the Hub's, and a user who may not use the service gets 403."""
    reply = await here.call("GET", path, token=None)
    # followed to the Hub's login, which the stand-in does not have
    assert "/hub/" in reply.effective_url or reply.code in (302, 404)
    assert b"k1.ipynb" not in (reply.body or b"")
    assert (await here.call("GET", path, token="stranger")).code == 403


async def test_without_a_scope_one_sees_ones_own(here: ServiceHere) -> None:
    """Ada sees her server, her rows and orders to her; nothing on any page names bob, his notebooks or his orders."""
    await here.service.give_order(("ada", ""), "k1", Act.RECLAIM, "a class begins", "root")
    await here.service.give_order(("bob", ""), "k2", Act.RECLAIM, "bob's business", "root")
    for path in (
        "",
        "servers",
        "server?user=ada",
        "log",
        "log?user=bob",
        "orders",
        "log/export",
        "log/export?user=bob",
    ):
        reply = await here.call("GET", path, token="ada's browser")
        assert reply.code == 200, path
        assert not re.search(rb"bob|k2", reply.body.replace(b'value="bob"', b"")), path
    assert "a class begins" in words(await here.call("GET", "orders", token="ada's browser"))
    for path in ("server?user=bob", "policies", "policies?user=bob", "report"):
        assert (await here.call("GET", path, token="ada's browser")).code in (403, 404), path


@pytest.mark.parametrize("token", ["reader", "ada's browser", "ada"])
async def test_nobody_orders_without_the_scope_for_it(here: ServiceHere, token: str) -> None:
    """Who may only read, or see their own, or has a server's token, can neither order nor set or end overrides."""
    number = await here.service.set_override({"set": {"mode": "dry_run"}}, "trial", "root", None)
    fields = {"user": "ada", "kernel_id": "k1", "act": "reclaim", "reason": "because"}
    assert (await post(here, "orders", token, **fields)).code == 403
    assert (await post(here, "overrides", token, rule="set: {mode: 'off'}", note="x")).code == 403
    assert (await post(here, f"overrides/{number}/end", token)).code == 403
    assert (await here.service.store.orders())[0] == []
    assert [one.number for one in await here.service.store.standing_overrides(here.service.clock.now())] == [
        number
    ]
    for path in ("server?user=ada", "policies"):
        assert b'<form class="tall"' not in (await here.call("GET", path, token=token)).body


# -- orders and overrides ----------------------------------------------------------------------------------------------


async def test_an_order_is_kept_shown_and_logged(here: ServiceHere) -> None:
    """What an admin orders has a reason, goes to that server alone, and stands on its page and in the log."""
    fields = {"user": "ada", "kernel_id": "k1", "act": "pin", "hours": "2", "reason": "a défense – today"}
    await post(here, "orders", **fields)
    (order,) = await here.service.store.open_orders("ada", "")
    assert (order.act, order.reason, order.actor) == (Act.PIN, "a défense – today", "root")
    assert 7190 < (order.until - order.made_at).total_seconds() < 7210
    said = words(await here.call("GET", "server?user=ada", token="admin"))
    assert "a défense – today root no answer yet" in said
    assert "order_given ada" in words(await here.call("GET", "log", token="admin"))
    assert await here.service.store.open_orders("bob", "") == []


@pytest.mark.parametrize(
    ("change", "code"),
    [({"reason": " "}, 400), ({"reason": "x" * 501}, 400), ({"act": "kill"}, 400), ({"kernel_id": "nope"}, 404),
     ({"user": "nobody"}, 404), ({"act": "pin", "hours": "nan"}, 400), ({"act": "pin", "hours": "-1"}, 400),
     ({"act": "pin", "hours": "1e9"}, 400)],
)  # fmt: skip
async def test_an_order_that_makes_no_sense(here: ServiceHere, change: dict[str, str], code: int) -> None:
    """An order without a reason, of an unknown act, to no kernel, or for no time is refused, and nothing is kept."""
    fields = {"user": "ada", "kernel_id": "k1", "act": "reclaim", "reason": "because"}
    assert (await post(here, "orders", **{**fields, **change})).code == code
    assert (await here.service.store.orders())[0] == []


async def test_an_override_holds_at_once_and_until_it_is_ended(here: ServiceHere) -> None:
    """A rule set in the page is tried first, shows who set it and why, and its end is attributed, too."""
    await post(
        here, "overrides", rule="name: exams\nset: {idle_after_seconds: 60}", note="exam week", hours="3"
    )
    assert [rule.name for rule in here.service.policies.rules] == ["exams", "course", "all"]
    said = words(await here.call("GET", "policies", token="admin"))
    assert "exam week root" in said
    (number,) = [one.number for one in (await here.service.store.overrides())[0]]
    await post(here, f"overrides/{number}/end")
    assert [rule.name for rule in here.service.policies.rules] == ["course", "all"]
    assert "by root" in words(await here.call("GET", "policies", token="admin"))
    assert (await post(here, f"overrides/{number}/end")).code == 404
    changed = [row for row in await here.rows() if row.event == "policy_changed"]
    assert [row.actor for row in changed] == ["root", "root"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [("set: {idle_after_seconds: soon}", "set.idle_after_seconds"), ("{", "no YAML"), ("", "expected"),
     ("a: &a [*a]", "a"), ("!!python/object/apply:os.system ['true']", "no YAML")],
)  # fmt: skip
async def test_a_rule_that_cannot_be_taken(here: ServiceHere, rule: str, message: str) -> None:
    """A wrong rule is refused with what is wrong, and what held still does."""
    reply = await post(here, "overrides", rule=rule, note="x")
    assert reply.code == 400
    assert message in unescape(reply.body.decode())
    assert (await here.service.store.overrides())[0] == []


# -- hostile names -----------------------------------------------------------------------------------------------------


async def test_names_are_text_on_every_page_and_in_every_export(here: ServiceHere) -> None:
    """Markup and SQL in a name, an explanation, a reason or a note is shown as it is written."""
    evil = kernel("e", 2, label=HOSTILE, explanation=HOSTILE)
    body = {"server": "", "node": HOSTILE, "status": status(evil, problems=[HOSTILE])}
    assert (await here.call("PUT", "api/status", body, "ada")).code == 204
    row = {"id": "r1", "at": here.service.clock.now().isoformat(), "kernel_id": "e", "event": "reclaim_done"}
    rows = [{**row, "phase": "reclaimed", "label": HOSTILE, "detail": HOSTILE},
            {**row, "id": "r2", "phase": "reclaimed", "label": "=1+1"}]  # fmt: skip
    assert (await here.call("POST", "api/transitions", {"server": "", "rows": rows}, "ada")).code == 200
    await post(here, "orders", user="ada", kernel_id="e", act="reclaim", reason=HOSTILE)
    await post(here, "overrides", rule="set: {mode: dry_run}", note=HOSTILE)
    queries = (f"log?{urlencode({'notebook': HOSTILE})}", f"servers?{urlencode({'q': HOSTILE})}",
               f"policies?{urlencode({'user': HOSTILE, 'groups': HOSTILE})}", f"server?{urlencode({'user': HOSTILE})}",
               f"report?{urlencode({'since': HOSTILE})}")  # fmt: skip
    for path in (*PAGES, *queries):
        page = (await here.call("GET", path, token="admin")).body.decode()
        assert not re.search(r"<script|<img|49%s", page), path
    for path in ("", "server?user=ada", "log", queries[0], "orders", "policies"):
        assert HOSTILE in unescape((await here.call("GET", path, token="admin")).body.decode()), path
    exported = (await here.call("GET", "log/export", token="admin")).body.decode()
    labels = {record["label"] for record in csv.DictReader(io.StringIO(exported))}
    assert {HOSTILE, "'=1+1"} <= labels


@pytest.mark.parametrize("path", [*PAGES, "server?user=nobody", "log?after=x", "log?since=x", "log?event=x"])
async def test_every_page_is_sent_with_its_guards(here: ServiceHere, path: str) -> None:
    """Errors included, no page may run scripts, be framed, send forms elsewhere, be kept, or hold a script at all."""
    reply = await here.call("GET", path, token="admin")
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["form-action"] == policy["style-src"] == "'self'"
    assert "script-src" not in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Cache-Control"] == "no-store"
    assert not re.search(rb"<script|style=|javascript:| on\w+=", reply.body)
    assert reply.code == (200 if path in PAGES else reply.code)
    assert reply.code < 500


async def test_a_page_without_its_database_says_so(here: ServiceHere) -> None:
    """When the database is away the log's page is a 503 that says nothing is lost; the overview still is there."""
    await here.service.log.close()
    reply = await here.call("GET", "log", token="admin")
    assert (reply.code, b"Nothing is lost" in reply.body) == (503, True)
    assert (await here.call("GET", "", token="admin")).code == 200


async def test_the_report_counts_each_gpu_once_and_only_what_was_observed(here: ServiceHere) -> None:
    """Two servers that share a GPU for 30 s: one GPU's time, both users' bytes; without samples there is no figure."""
    assert "There are no samples" in words(await here.call("GET", "report", token="admin"))
    assert "GPU-hours" not in words(await here.call("GET", "report", token="admin"))
    clock = Steps(here.service.clock.now() - timedelta(minutes=5))
    usage = FleetUsage(here.service.fleet, here.service.log, clock)
    for _ in range(4):
        await usage.sample()
        clock.at += timedelta(seconds=10)
    await usage.stop()
    since = (clock.at - timedelta(hours=1)).isoformat()
    report = await making.make(usage.store, clock.at - timedelta(hours=1), clock.at, making.assumed({}))
    figures = {figure.name: figure.value for figure in report.figures}
    assert figures["GPU-hours observed"] == pytest.approx(30 / 3600)
    assert figures["memory won back"] == pytest.approx(3 * 30 / 3600)
    held = {use.name: use.held_gib_hours for use in report.users}
    assert held == {"ada": pytest.approx(4 * 30 / 3600), "bob": pytest.approx(5 * 30 / 3600)}
    said = words(await here.call("GET", f"report?{urlencode({'since': since})}", token="admin"))
    assert "GPU-hours observed" in said
    assert "by user" in said


class Steps:
    """`ports.Clock`, moved by hand."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return self.at
