"""Rules tried in the page: who may, what comes out, and that nothing is changed whatever comes in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fleet_words import GIB, status
from service_here import ServiceHere
from tornado.httpclient import HTTPResponse

from jupyter_gpu_reclaim.core.model import Gpu
from jupyter_gpu_reclaim.core.usage import KernelAmounts, Span
from jupyter_gpu_reclaim.hub import dry_run_process
from jupyter_gpu_reclaim.hub.auth import READ, WRITE
from jupyter_gpu_reclaim.hub.dry_run_process import DryRuns
from jupyter_gpu_reclaim.hub.policies import book_from
from jupyter_gpu_reclaim.ports import LogUnavailable

COME_IN = "access:services!service=gpu-reclaim"
IN_FORCE = [
    {"name": "course", "match": {"groups": ["course"]}, "set": {"idle_after_seconds": 3600}},
    {"name": "all", "set": {"idle_after_seconds": 1200}},
]
SOONER = "rules:\n  - match: {groups: [course]}\n    set: {idle_after_seconds: 1800}\n"


@pytest.fixture
def here(jp_asyncio_loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[ServiceHere]:
    """A service with a row of a day ago: ada, who is in the course, was reclaimed after an idle hour, 4 GiB."""
    service = ServiceHere(f"sqlite:///{tmp_path / 'hub.sqlite'}", IN_FORCE)
    for token, scopes in (("admin", [READ, WRITE]), ("reader", [READ]), ("ada's browser", [])):
        service.tokens[token] = {"kind": "user", "name": token, "groups": [], "scopes": [COME_IN, *scopes]}

    async def begin() -> None:
        await service.__aenter__()
        at = service.service.clock.now() - timedelta(days=1)
        row = {"kernel_id": "k1", "label": "k1.ipynb", "reason": "idle", "footprint": {"GPU-1": 4 * GIB}}
        rows = [
            {**row, "id": "1", "at": at.isoformat(), "event": "reclaim_started", "phase": "reclaiming"},
            {**row, "id": "2", "at": at.isoformat(), "event": "reclaim_done", "phase": "reclaimed"},
        ]
        said = {"server": "", "node": "n1", "status": status()}
        assert (await service.call("PUT", "api/status", said, "ada")).code == 204
        reply = await service.call("POST", "api/transitions", {"server": "", "rows": rows}, "ada")
        assert reply.code == 200

    jp_asyncio_loop.run_until_complete(begin())
    yield service
    jp_asyncio_loop.run_until_complete(service.__aexit__())


async def tried(
    here: ServiceHere, rules: str = SOONER, token: str = "admin", days: str = "7"
) -> HTTPResponse:
    """The answer to the form."""
    return await here.call("POST", "policies/try", urlencode({"rules": rules, "days": days}), token)


def words(reply: HTTPResponse) -> str:
    """What the page says, without its markup."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", reply.body.decode())).split())


async def test_rules_are_tried_and_nothing_is_changed(here: ServiceHere) -> None:
    """4 GiB half an hour sooner are 2 GiB-h more; the page says over which time, what is not known, and has the rules.

    Two at once are refused: one is answered, the other told to try again.
    """
    rows, rules = await here.rows(), here.service.policies.rules
    replies = await asyncio.gather(tried(here), tried(here))
    assert sorted(reply.code for reply in replies) == [200, 409]
    (reply,) = (reply for reply in replies if reply.code == 200)
    said = words(reply)
    assert "would have reclaimed 2.0 GiB-h more and caused 0 more waits" in said
    assert "reclaimed, GiB-h 96.0 98.0 +2.0 waits 0 0 +0" in said
    assert "by the log itself, 96.0 GiB-h" in said
    assert "1 notebooks' kernels" in said
    assert "The log has no cells; samples" in said
    assert "taken to have 80 GiB" not in said  # ada's server has said how large its GPU is
    assert "idle_after_seconds: 1800" in said
    assert here.service.policies.rules == rules
    assert await here.rows() == rows


async def test_use_is_known_from_samples(here: ServiceHere) -> None:
    """A notebook that was never reclaimed rested for 40 minutes, as samples in the database say: with 30 minutes asked
    for its next cell would have waited, and 2 GiB would have been away for what is left of 10."""
    end = int(here.service.clock.now().timestamp()) // 60 * 60 - 60
    held, spans = 2 * GIB // 1024 * 10, []
    for number in range(6 * 50):
        idle = held if 30 <= number < 6 * 45 else 0
        span = Span(end - 3000 + 10 * number)
        span.kernels["k9", "k9.ipynb", "ada", "GPU-1"] = KernelAmounts(ms=10_000, resident=held, idle=idle)
        spans.append(span)
    gpu = Gpu(uuid="GPU-1", name="A100", total_bytes=16 * GIB, used_bytes=0)
    await here.service.usage.store.write(spans, {gpu.uuid: gpu})
    said = words(await tried(here))
    assert "2 notebooks' kernels" in said
    assert "would have reclaimed 2.3 GiB-h more and caused 1 more wait." in said
    assert "it is known by the minute when they were in use" in said


async def test_what_is_tried_stands_behind_the_overrides(here: ServiceHere) -> None:
    """A standing override holds before the rules tried, as it would if the file were changed."""
    await here.service.set_override({"set": {"idle_after_seconds": 600}}, "exams", "root", None)
    assert "0.0 GiB-h more and caused 0 more waits" in words(await tried(here))


@pytest.mark.parametrize(
    ("rules", "days", "message"),
    [
        (SOONER.replace("1800", "soon"), "7", "rules line 3: set.idle_after_seconds: a number of seconds"),
        ("rules: [", "7", "rules line 1: this is no YAML"),
        ("", "7", "rules line 1: a map of `timezone` and `rules` is expected"),
        ("[" * 5000, "7", "nested too deep"),
        ("#" * 100_001, "7", "at most 100,000 letters"),
        (SOONER, "8", "from 1 to 7"),
        (SOONER, "0", "from 1 to 7"),
        (SOONER, "-1", "from 1 to 7"),
    ],
)
async def test_rules_that_cannot_be_tried(here: ServiceHere, rules: str, days: str, message: str) -> None:
    """What is wrong with the rules is told with the line and the reason, as when they are read anew."""
    reply = await tried(here, rules, days=days)
    assert reply.code == 400
    assert message in words(reply)


@pytest.mark.parametrize("token", ["reader", "ada's browser", "ada"])
async def test_nobody_tries_rules_without_the_scope_to_set_them(here: ServiceHere, token: str) -> None:
    """Who may not set policies gets no figures from everybody's log, and is not offered the form."""
    assert (await tried(here, token=token)).code == 403
    page = await here.call("GET", "policies", token=token)
    assert b"policies/try" not in page.body


async def test_the_form_has_the_rules_in_force(here: ServiceHere) -> None:
    """Whoever may set policies finds the rules of the file in the form, ready to be changed and tried."""
    page = await here.call("GET", "policies", token="admin")
    (text,) = re.findall(r'<textarea name="rules"[^>]*>\n(.*?)</textarea>', page.body.decode(), re.DOTALL)
    assert "0.0 GiB-h more and caused 0 more waits" in words(await tried(here, unescape(text)))


async def test_what_takes_too_long_is_ended(here: ServiceHere) -> None:
    """After its time the replays' process is ended and said so, and the next is answered."""
    here.service.dry_runs.limit_seconds = 0
    reply = await tried(here)
    assert (reply.code, "Nothing was changed. Try fewer days." in words(reply)) == (503, True)
    here.service.dry_runs.limit_seconds = dry_run_process.LIMIT_SECONDS
    assert (await tried(here)).code == 200


async def test_more_rows_than_are_replayed_are_refused(here: ServiceHere) -> None:
    """A log with more rows than the most is refused with a sentence that says how many, and what to do."""
    here.service.dry_runs.most_rows = 1
    reply = await tried(here)
    assert reply.code == 400
    assert "more than 1 rows about reclaims and restores" in words(reply)
    assert "Try fewer days" in words(reply)


async def test_a_log_that_cannot_be_read_is_said(here: ServiceHere, tmp_path: Path) -> None:
    """Where the process finds no database to read, that is what is raised, and not a comparison of nothing."""
    (tmp_path / "file").write_text("")
    service = here.service
    runs = DryRuns(f"sqlite:///{tmp_path / 'file' / 'log'}", service.fleet, service.policies, service.clock)
    with pytest.raises(LogUnavailable):
        await runs.compare(book_from(SOONER, "rules"), 7)
