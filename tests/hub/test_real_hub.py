"""A real JupyterHub: its users' servers share a GPU, keep their settings, and do without the hub while it is away."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from anyio.from_thread import BlockingPortal
from playwright.sync_api import Browser, Page
from real_hub import RealHub, UserAtHub
from tornado.httpclient import HTTPClientError

from jupyter_gpu_reclaim.demo.jupyter_session import OpenNotebook

HELD_BYTES = 160 << 20  # more than half of the GPU
DEADLINE_SECONDS = 60
RULES = """\
rules:
  - name: students
    match: {groups: [students]}
    set: {idle_after_seconds: 240}
    lock: all
  - name: small servers
    match: {profiles: [small]}
    set: {max_pin_seconds: 1800}
"""
FRESH = (
    "import torch\ntorch.set_num_threads(1)\n"
    "def fresh(): return torch.arange(40 * 2**20, dtype=torch.int32)\n"
    "x = fresh().to('simgpu')"
)


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """In place of pytest_jupyter's: what is asked of the hub runs in the portal."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """In place of pytest_jupyter's, for the same reason."""


@dataclass
class Desk:
    """A user with a notebook that holds `HELD_BYTES`, and how often its data was changed."""

    user: UserAtHub
    notebook: OpenNotebook
    step: int = 0

    async def work(self) -> None:
        """One cell that needs the data on the GPU, changes it, and compares it to the last number."""
        self.step += 1
        code = f"x += 1\nprint(torch.equal(x.cpu(), fresh() + {self.step}))"
        assert await self.notebook.run(code) == "True\n"

    async def log(self) -> list[dict]:
        """What became of the kernel, oldest first."""
        where = f"/gpu-reclaim/api/log?kernel_id={self.notebook.kernel_id}&limit=500"
        return (await self.user.request("GET", where))["transitions"][::-1]


async def sit_down(hub: RealHub, name: str, profile: str) -> Desk:
    """A user opens a notebook and fills it, others making room."""
    user = await hub.user(name, profile)
    notebook = await user.open_notebook("a.ipynb")
    await notebook.run(FRESH)
    await user.until(lambda row: row["mechanism"] and row["footprint_bytes"] >= HELD_BYTES, notebook)
    return Desk(user, notebook)


@pytest.fixture(scope="module")
def desks(hub: RealHub, portal: BlockingPortal) -> tuple[Desk, Desk]:
    """Alice's and bob's; bob came last, so alice's notebook has given way."""
    settings = hub.folder / "home" / "alice" / ".jupyter" / "jupyter_server_config.py"
    settings.parent.mkdir(parents=True)
    settings.write_text("c.GpuReclaim.idle_after_seconds = 10**6\n")
    return portal.call(sit_down, hub, "alice", "large"), portal.call(sit_down, hub, "bob", "small")


def test_a_waiting_cell_makes_another_users_idle_notebook_give_way(
    desks: tuple[Desk, Desk], portal: BlockingPortal
) -> None:
    """Room for one of two users' notebooks: whoever's cell runs has it, data unchanged, each side in its own log."""

    async def story() -> None:
        for _ in range(2):
            for desk in desks:
                await desk.work()
        await asyncio.gather(*(desk.work() for desk in desks))
        for desk in desks:
            rows = await desk.log()
            assert {row["owner"] for row in rows} == {desk.user.name}
            seen = [(row["event"], row["reason"]) for row in rows]
            assert ("reclaim_started", "admission") in seen  # to the other user: there is nobody else
            assert "restore_done" in {event for event, _ in seen}
            wrong = {"reclaim_failed", "restore_failed", "lost", "wait_ended"}
            assert not wrong & {event for event, _ in seen}
            assert (await desk.user.status())["problems"] == []

    portal.call(story)


def test_the_operators_settings_hold_by_group_and_profile(
    hub: RealHub, desks: tuple[Desk, Desk], portal: BlockingPortal
) -> None:
    """A server has its group's settings, whatever its user configures; rules of the service bound them at once.

    They know the group, and the profile that the Hub noted.
    """
    rules, before = hub.folder.parent / "policies.yaml", [portal.call(desk.user.status) for desk in desks]
    assert [one["policy"]["idle_after_seconds"] for one in before] == [300, 1200]
    assert [one["policy"]["max_pin_seconds"] for one in before] == [3600, 14400]

    async def story() -> None:
        rules.write_text(RULES)
        await desks[0].user.until_status(lambda status: status["policy"]["idle_after_seconds"] == 240)
        shorter = {**before[1]["policy"], "max_pin_seconds": 1800}
        await desks[1].user.until_status(lambda status: status["policy"] == shorter)
        assert (await desks[0].user.status())["policy"]["max_pin_seconds"] == 3600
        rules.write_text(RULES.replace("240", "soon"))  # which is wrong: what held still does
        await hub.until_logged("policies.yaml line 4: set.idle_after_seconds")
        assert (await desks[0].user.status())["policy"]["idle_after_seconds"] == 240
        rules.write_text(RULES)

    portal.call(story)


def test_the_fleets_log_has_both_sides_once_however_the_service_ends(
    hub: RealHub, desks: tuple[Desk, Desk], portal: BlockingPortal
) -> None:
    """With the service killed and started again while cells run: each server's rows in the fleet's log, each once."""

    async def rows_of(desk: Desk) -> set[str]:
        return {row["id"] for row in await desk.log()}

    async def fleet() -> list[str]:
        lines = await hub.ask(admin, "log/export?format=jsonl&reason=&event=")
        return [row["id"] for row in map(json.loads, lines.splitlines()) if row["kernel_id"] in kernels]

    async def story() -> None:
        for desk in desks:
            await desk.work()
        await hub.kill_service()
        for _ in range(2):
            for desk in desks:
                await desk.work()
        own = await rows_of(desks[0]) | await rows_of(desks[1])
        found: list[str] = []
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not own <= set(found):
                    found = await hub.until_answered(fleet)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{len(own - set(found))} of {len(own)} rows are missing") from None
        assert len(found) == len(set(found))
        assert set(found) <= await rows_of(desks[0]) | await rows_of(desks[1])

    admin = portal.call(hub.token_of, "admin")
    kernels = {desk.notebook.kernel_id for desk in desks}
    portal.call(story)


def test_the_service_makes_room_where_servers_share_no_directory(
    hub: RealHub, desks: tuple[Desk, Desk], portal: BlockingPortal
) -> None:
    """Without the shared directory one user's waiting cell still makes the other's idle notebook give way."""
    node = hub.folder.parent / "node"

    async def story() -> None:
        await desks[0].work()
        node.rename(node.with_name("away"))  # a directory that was named and is not there is not made
        for _ in range(2):
            for desk in reversed(desks):
                await desk.work()
                assert any("node" in problem for problem in (await desk.user.status())["problems"])
        node.with_name("away").rename(node)

    portal.call(story)


def log_in(page: Page, hub: RealHub, name: str) -> Page:
    """Come to the service's pages through the Hub's login."""
    page.goto(f"{hub.url}/services/gpu-reclaim/")
    page.fill("#username_input", name)
    page.fill("#password_input", hub.password_of(name))
    page.click("#login_submit")
    page.wait_for_selector("dl.totals")
    return page


def reload_until(page: Page, text: str) -> None:
    """Load the page again until it has that text: servers tell the service of themselves now and then."""
    end = time.monotonic() + DEADLINE_SECONDS
    while text not in page.inner_text("main"):
        assert time.monotonic() < end, page.inner_text("main")
        page.wait_for_timeout(200)
        page.reload()


def test_an_admin_orders_a_reclaim_in_the_browser(
    hub: RealHub, desks: tuple[Desk, Desk], portal: BlockingPortal, chromium: Browser
) -> None:
    """The page shows both users; an order with a reason is carried out, answered, and shown to the kernel's user."""
    bob = desks[1]
    portal.call(bob.work)
    page = log_in(chromium.new_page(viewport={"width": 1100, "height": 900}), hub, "admin")
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    reload_until(page, "given back 160.0 MiB")
    assert page.locator(".card li").all_inner_texts() == [
        "bob a.ipynb\n176.0 MiB"
    ]  # the process's context, too
    page.screenshot(path=hub.folder.parent / "fleet.png", full_page=True)
    page.locator(".card a", has_text="bob").click()
    page.locator("tr", has_text="a.ipynb").locator("summary").first.click()
    page.fill("input[name=reason]", "a class <b>begins</b>")
    page.screenshot(path=hub.folder.parent / "server.png", full_page=True)
    page.click("text=Reclaim now")
    page.wait_for_selector("text=Orders of administrators")
    assert page.locator("text=a class <b>begins</b>").count() == 1
    row = portal.call(bob.user.until, lambda row: row["phase"] == "reclaimed", bob.notebook)
    assert row["footprint_bytes"] >= HELD_BYTES
    reload_until(page, "It is being done.")
    told = portal.call(bob.user.status)["hub"]["orders"]
    assert [(order["actor"], order["reason"]) for order in told] == [("admin", "a class <b>begins</b>")]
    for path in ("servers", "log", "orders", "policies", "report"):
        page.goto(f"{hub.url}/services/gpu-reclaim/{path}")
        assert path not in ("servers", "log") or {"alice", "bob"} <= set(page.inner_text("main").split())
        page.screenshot(path=hub.folder.parent / f"{path}.png", full_page=True)
    page.goto(f"{hub.url}/services/gpu-reclaim/log?user=alice&event=reclaim_started")
    assert "reclaim_started alice a.ipynb admission" in " ".join(page.inner_text("table").split())
    page.goto(f"{hub.url}/services/gpu-reclaim/policies")
    page.click("text=Try other rules against the last week")
    page.click("text=Try against the last week")
    page.wait_for_selector(
        "text=GiB-h more and caused 0 more waits"
    )  # the rules in force, as the form has them
    page.screenshot(path=hub.folder.parent / "dry_run.png", full_page=True)
    page.context.clear_cookies(name="_xsrf")
    for path, form in (
        ("overrides", {"rule": "set: {mode: dry_run}", "note": "forged"}),
        ("policies/try", {"rules": "rules: []", "days": "1"}),
    ):
        assert page.request.post(f"{hub.url}/services/gpu-reclaim/{path}", form=form).status == 403
    assert problems == []
    portal.call(bob.work)


def test_a_user_and_an_admin_of_the_hub_see_their_own(
    hub: RealHub, desks: tuple[Desk, Desk], chromium: Browser
) -> None:
    """Alice sees her server and not bob's; nor does an admin of the Hub who was not given the service's scope."""
    for name in ("alice", "other-admin"):
        page = log_in(chromium.new_page(), hub, name)
        for path in ("", "servers", "log", "orders"):
            page.goto(f"{hub.url}/services/gpu-reclaim/{path}")
            assert "bob" not in page.inner_text("body")
        assert page.goto(f"{hub.url}/services/gpu-reclaim/policies").status == 403
        page.close()


@pytest.mark.parametrize("who", ["bob", "nobody"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "status"), ("GET", "log"), ("POST", "kernels/{}/reclaim"), ("DELETE", "kernels/{}/pin")],
)
def test_nobody_elses_server_is_answered_for(
    desks: tuple[Desk, Desk], portal: BlockingPortal, who: str, method: str, path: str
) -> None:
    """A user's API answers neither another user's token nor one that the hub does not know."""
    alice, bob = desks
    stranger = UserAtHub(alice.user.folder, hub=alice.user.hub, name=who)
    stranger.url, stranger.token = alice.user.url, bob.user.token if who == "bob" else "0" * 32
    where = "/gpu-reclaim/api/" + path.format(alice.notebook.kernel_id)
    with pytest.raises(HTTPClientError) as raised:
        portal.call(stranger.request, method, where, {} if method == "POST" else None)
    assert raised.value.code == 403


def test_no_culler_is_misled(desks: tuple[Desk, Desk], portal: BlockingPortal) -> None:
    """A reclaim, and whoever looks at the status, leave the kernel's last activity as it was: cullers go by that."""
    desk = desks[0]

    async def as_jupyter_has_it() -> dict:
        return await desk.user.request("GET", f"/api/kernels/{desk.notebook.kernel_id}")

    async def story() -> None:
        started_at = datetime.now(UTC)
        await desk.work()
        while True:  # the server hears by itself, maybe later than we, that the cell is over
            kernel = await as_jupyter_has_it()
            is_told = datetime.fromisoformat(kernel["last_activity"]) > started_at
            if is_told and kernel["execution_state"] == "idle":
                break
            await asyncio.sleep(0.05)
        before = kernel["last_activity"]
        while True:
            where = f"/gpu-reclaim/api/kernels/{desk.notebook.kernel_id}/reclaim"
            reply = await desk.user.request("POST", where, {}, accept=(409,))
            if "decision" in reply:
                break
            assert reply["reason"] in ("gpu_busy", "running", "background_unknown"), reply
            await asyncio.sleep(0.05)
        await desk.user.until(lambda row: row["phase"] == "reclaimed", desk.notebook)
        assert (await as_jupyter_has_it())["last_activity"] == before

    portal.call(story)


def test_the_hub_killed_and_started_again(
    hub: RealHub, desks: tuple[Desk, Desk], portal: BlockingPortal
) -> None:
    """While the hub is dead cells run, notebooks give way and come back; the next hub finds the servers as they are."""

    async def story() -> None:
        pids = [(await desk.user.until(lambda row: row["pid"], desk.notebook))["pid"] for desk in desks]
        await hub.kill()
        for _ in range(2):
            for desk in desks:
                await desk.work()
        await hub.start()
        for desk, pid in zip(desks, pids, strict=True):
            await hub.until_answered(desk.user.status)
            desk.notebook.close()  # the proxy is a new one
            await desk.notebook.connect()
            await desk.work()
            assert (await desk.notebook.holding())["pid"] == pid

    portal.call(story)


def test_a_server_stopped_while_its_notebook_is_reclaimed(
    hub: RealHub, desks: tuple[Desk, Desk], portal: BlockingPortal
) -> None:
    """The hub stops a server whose notebook's data is away: the server ends, and the other user's works on."""
    alice, bob = desks

    async def story() -> None:
        await bob.work()  # so that alice's is away
        await alice.user.until(lambda row: row["phase"] == "reclaimed", alice.notebook)
        await alice.user.stop()
        await bob.work()

    portal.call(story)
