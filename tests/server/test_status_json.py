"""The status as JSON, held to the file that the front end's tests read too."""

from __future__ import annotations

import json

from golden_scene import FILE, body
from openapi import check_reply


def test_the_golden_status_is_what_the_server_says() -> None:
    """Every state of a kernel comes out as `golden/status.json` has it, and as the description allows."""
    check_reply("GET", "/status", 200, body())
    assert json.loads(FILE.read_text()) == json.loads(json.dumps(body()))


def test_the_golden_status_has_every_state_in_it() -> None:
    """Each act and phase that a front end has to show is in the scene, and each kernel has a sentence."""
    kernels = json.loads(FILE.read_text())["kernels"]
    assert {kernel["decision"]["act"] for kernel in kernels} >= {"keep", "warn", "wait"}
    assert {kernel["phase"] for kernel in kernels} == {"resident", "reclaiming", "reclaimed", "restoring"}
    waits = {kernel["kernel_id"]: kernel["wait"] for kernel in kernels if kernel["wait"]}
    assert [wait["position"] for wait in waits.values()] == [1, 2, 3]
    assert all(kernel["explanation"].endswith(".") for kernel in kernels)
