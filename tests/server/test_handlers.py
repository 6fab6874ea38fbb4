"""The REST API in a real Jupyter server: all routes as `openapi.yaml` has them, every error mapped, nothing open."""

from __future__ import annotations

import asyncio
import json
import re
import warnings
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from jupyter_server.auth.authorizer import Authorizer
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import JupyterServerAuthWarning
from openapi import API, check_reply
from openapi_spec_validator import validate
from tornado.httpclient import HTTPClientError
from traitlets.config import Config

from jupyter_gpu_reclaim.core.model import Event, Phase, Reason, Transition
from jupyter_gpu_reclaim.server import handlers, log_handlers
from jupyter_gpu_reclaim.server.app import GpuReclaim

Call = Callable[..., Awaitable[tuple[int, Any]]]
NOBODY = "00000000-0000-0000-0000-000000000000"
CALLS = [
    ("GET", "/status", None),
    ("POST", "/kernels/{kernel_id}/reclaim", {}),
    ("POST", "/kernels/{kernel_id}/restore", {}),
    ("POST", "/kernels/{kernel_id}/prefetch", {}),
    ("PUT", "/kernels/{kernel_id}/pin", {"seconds": 60}),
    ("DELETE", "/kernels/{kernel_id}/pin", None),
    ("DELETE", "/alarms/{alarm_id}", None),
    ("GET", "/log", None),
    ("GET", "/log/export", None),
    ("GET", "/history", None),
    ("GET", "/totals", None),
    ("GET", "/report", None),
]


class Judge(Authorizer):
    """Notes what is asked of it, and refuses what is in `refused`."""

    asked: ClassVar[set[tuple[str, str]]] = set()
    refused: ClassVar[set[tuple[str, str]]] = set()

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        """See `Authorizer`."""
        self.asked.add((action, resource))
        return (action, resource) not in self.refused


@pytest.fixture
def jp_server_config() -> Config:
    """A server that loads us, lets nobody in without a token, and asks our judge."""
    return Config(
        {
            "ServerApp": {
                "jpserver_extensions": {"jupyter_gpu_reclaim": True, "jupyter_server_terminals": False},
                "allow_unauthenticated_access": False,
                "authorizer_class": Judge,
                "reraise_server_extension_failures": True,
            },
            "GpuReclaim": {"tick_seconds": 0.1},
        }
    )


@pytest.fixture
def extension(jp_serverapp: ServerApp, jp_asyncio_loop: asyncio.AbstractEventLoop) -> GpuReclaim:
    """The extension, started, after its first look."""
    Judge.asked, Judge.refused = set(), set()
    app = jp_serverapp.extension_manager.extension_points["jupyter_gpu_reclaim"].app
    jp_asyncio_loop.run_until_complete(jp_serverapp.extension_manager.start_all_extensions())
    jp_asyncio_loop.run_until_complete(app.reconciler.tick())
    return app


@pytest.fixture
def call(jp_fetch: Any) -> Call:
    """One REST call: (code, body), the body checked against `openapi.yaml`."""

    async def call(
        method: str, path: str, body: Any = None, params: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        where = f"gpu-reclaim/api{path.format(kernel_id=NOBODY, alarm_id=NOBODY)}"
        payload = None if body is None else body if isinstance(body, str) else json.dumps(body)
        try:
            reply = await jp_fetch(
                where, method=method, body=payload, params=params or {}, allow_nonstandard_methods=True
            )
        except HTTPClientError as error:
            reply = error.response
        is_json = reply.headers.get("Content-Type", "").split(";")[0] == "application/json"
        parsed = (json.loads(reply.body) if is_json else reply.body.decode()) if reply.body else None
        check_reply(method, path, reply.code, parsed)
        return reply.code, parsed

    return call


def test_the_description_is_openapi() -> None:
    """`openapi.yaml` is a valid description."""
    validate(API)


def test_handlers_and_description_have_the_same_routes_and_methods() -> None:
    """Each handler's verbs are described, and nothing is described that no handler does."""
    verbs = ("get", "post", "put", "patch", "delete")
    implemented = {
        (re.sub(r"\(\?P<(\w+)>.*?\)", r"{\1}", pattern).removeprefix("/gpu-reclaim/api"), verb)
        for pattern, handler in (*handlers.ROUTES, *log_handlers.ROUTES)
        for verb in verbs
        if verb in vars(handler)
    }
    described = {(path, verb) for path, item in API["paths"].items() for verb in verbs if verb in item}
    assert implemented == described
    assert {(path, method.lower()) for method, path, _ in CALLS} == described


def test_a_server_that_forbids_open_endpoints_finds_none(
    jp_configurable_serverapp: Any, jp_server_config: Config
) -> None:
    """Jupyter's own check of every handler for authentication finds nothing to complain of in ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", JupyterServerAuthWarning)
        jp_configurable_serverapp(config=jp_server_config)


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_nobody_gets_in_without_a_token(
    extension: GpuReclaim, http_server_client: Any, jp_base_url: str, method: str, path: str, body: Any
) -> None:
    """Every call without authentication is answered 403."""
    url = f"{jp_base_url}gpu-reclaim/api{path.format(kernel_id=NOBODY, alarm_id=NOBODY)}"
    with pytest.raises(HTTPClientError) as refused:
        await http_server_client.fetch(
            url, method=method, body=json.dumps(body), allow_nonstandard_methods=True
        )
    assert refused.value.code == 403
    check_reply(method, path, 403, json.loads(refused.value.response.body))


async def test_each_call_asks_for_its_own_permission(extension: GpuReclaim, call: Call) -> None:
    """Reading and writing are told apart by resource and action, whichever handler was called first."""
    for method, path, body in (*CALLS, *reversed(CALLS)):
        await call(method, path, body)
    ours = {(action, resource) for action, resource in Judge.asked if resource.startswith("gpu_reclaim:")}
    assert ours == {
        ("read", "gpu_reclaim:status"),
        ("write", "gpu_reclaim:kernels"),
        ("write", "gpu_reclaim:alarms"),
        ("read", "gpu_reclaim:log"),
    }
    Judge.refused = {("write", "gpu_reclaim:kernels")}
    codes = {(method, path): (await call(method, path, body))[0] for method, path, body in CALLS}
    assert {key for key, code in codes.items() if code == 403} == {
        (method, path) for method, path, _ in CALLS if "kernel_id" in path
    }


async def test_unknown_kernels_are_404(extension: GpuReclaim, call: Call) -> None:
    """Whatever is asked of a kernel that does not exist, the answer is 404 with a reason and a sentence."""
    for method, path, body in CALLS:
        if "kernel_id" in path:
            code, reply = await call(method, path, body)
            assert (code, reply["reason"]) == (404, "unknown_kernel")
            assert NOBODY in reply["message"]


@pytest.mark.parametrize(
    "body", ["", "[]", '"soon"', "{}", '{"seconds": "60"}', '{"seconds": true}', '{"seconds": null}', "{nonsense",
             '{"seconds": 1e300}', '{"seconds": NaN}', '{"seconds": Infinity}', '{"seconds": 0}', '{"seconds": -5}',
             '{"seconds": 43201}', "\u00e4"],
)  # fmt: skip
async def test_bad_pins_are_400(extension: GpuReclaim, call: Call, body: str) -> None:
    """A pin without a span, or one out of bounds, is answered 400 and changes nothing."""
    code, reply = await call("PUT", "/kernels/{kernel_id}/pin", body)
    assert code == 400
    assert reply["message"]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "-1"},
        {"limit": "many"},
        {"limit": "9" * 5000},
        {"since": "yesterday"},
        {"until": "2026-01-01"},
        {"event": "party"},
        {"reason": "because"},
        {"after": "not a cursor"},
    ],
)
async def test_bad_questions_to_the_log_are_400(
    extension: GpuReclaim, call: Call, params: dict[str, str]
) -> None:
    """A filter that means nothing is answered 400 with what was expected."""
    code, reply = await call("GET", "/log", params=params)
    assert code == 400
    assert reply["message"]


async def test_the_log_is_read_by_filter_and_page(extension: GpuReclaim, call: Call) -> None:
    """Rows come newest first, filtered by each argument, page after page without gap or repeat."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        Transition(
            id=f"row-{number}",
            at=start + timedelta(minutes=number),
            kernel_id=f"k{number % 2}",
            event=Event.RECLAIM_DONE if number % 3 else Event.RESTORE_DONE,
            phase=Phase.RECLAIMED if number % 3 else Phase.RESIDENT,
            reason=Reason.IDLE if number < 5 else Reason.REQUESTED,
            footprint={f"GPU-{number % 2}": 7},
            took=timedelta(seconds=1.5),
        )
        for number in range(10)
    ]
    await extension.reclaim_log.append(rows)

    async def ids(**params: Any) -> list[str]:
        code, reply = await call("GET", "/log", params=params)
        assert code == 200
        return [row["id"] for row in reply["transitions"]]

    def named(*numbers: int) -> list[str]:
        return [f"row-{number}" for number in numbers]

    assert await ids() == named(*range(9, -1, -1))
    assert await ids(kernel_id="k1") == named(9, 7, 5, 3, 1)
    assert await ids(gpu="GPU-0") == named(8, 6, 4, 2, 0)
    assert await ids(event="restore_done") == named(9, 6, 3, 0)
    assert await ids(reason="idle") == named(4, 3, 2, 1, 0)
    assert await ids(since="2026-01-01T00:07:00Z") == named(9, 8, 7)
    assert await ids(until="2026-01-01T00:02:00Z") in (named(1, 0), named(2, 1, 0))
    paged, cursor = [], {}
    while True:
        _, page = await call("GET", "/log", params={"limit": "4", **cursor})
        assert len(page["transitions"]) <= 4
        paged += [row["id"] for row in page["transitions"]]
        if page["next"] is None:
            break
        cursor = {"after": page["next"]}
    assert paged == named(*range(9, -1, -1))


async def test_a_closed_log_is_503(extension: GpuReclaim, call: Call) -> None:
    """While the database cannot be read the log's page says so, and the status goes on."""
    await extension.reclaim_log.close()
    code, reply = await call("GET", "/log")
    assert (code, reply["reason"]) == (503, "log_unavailable")
    assert (await call("GET", "/status"))[0] == 200


async def test_polling_is_no_activity(extension: GpuReclaim, call: Call, jp_serverapp: ServerApp) -> None:
    """Polling status and log for ever does not keep the server from counting as idle; a button does."""
    before = jp_serverapp.web_app.last_activity()
    for _ in range(3):
        await call("GET", "/status")
        await call("GET", "/log")
    assert jp_serverapp.web_app.last_activity() == before
    await call("POST", "/kernels/{kernel_id}/reclaim", {})
    assert jp_serverapp.web_app.last_activity() > before


async def test_before_it_runs_and_after_it_stopped_it_says_so(
    jp_serverapp: ServerApp, call: Call, jp_asyncio_loop: Any
) -> None:
    """Without a running loop every call is answered 503 with the reason; stopping twice is harmless."""
    app = jp_serverapp.extension_manager.extension_points["jupyter_gpu_reclaim"].app
    for _ in range(2):
        for method, path, body in CALLS:
            code, reply = await call(method, path, body)
            assert (code, reply["reason"]) == (503, "not_running")
        await jp_serverapp.extension_manager.start_all_extensions()
        assert (await call("GET", "/status"))[0] == 200
        await app.stop_extension()
        await app.stop_extension()


async def test_a_log_that_cannot_be_opened_does_not_keep_us_from_starting(
    jp_serverapp: ServerApp, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where Jupyter's data directory cannot hold the log the status works, and the log is 503 with the cause."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file" / "data"))
    await jp_serverapp.extension_manager.start_all_extensions()
    assert (await call("GET", "/status"))[0] == 200
    code, reply = await call("GET", "/log")
    assert (code, reply["reason"]) == (503, "log_unavailable")
    assert str(tmp_path / "file") in reply["message"]


async def test_elsewhere_than_on_linux_it_only_says_so(
    jp_serverapp: ServerApp, call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On another system it loads, says once that reclaim needs Linux, and changes no kernel's start."""
    monkeypatch.setattr("sys.platform", "darwin")
    app = jp_serverapp.extension_manager.extension_points["jupyter_gpu_reclaim"].app
    await app._start_jupyter_server_extension(jp_serverapp)
    code, reply = await call("GET", "/status")
    assert (code, reply["reason"]) == (503, "not_running")
    assert "needs Linux" in reply["message"]
    assert [record.message for record in caplog.records if "needs Linux" in record.message] == [
        reply["message"]
    ]
