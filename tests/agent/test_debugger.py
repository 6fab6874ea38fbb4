"""The debugger works on the control channel, beside the shell: it must not look at bytes that are away."""

from __future__ import annotations

import itertools
from typing import Any

from kernel_rig import Rig

SEQUENCE = itertools.count(1)


def ask(rig: Rig, command: str, **arguments: Any) -> dict[str, Any]:
    """A debug request and its reply."""
    return rig.kernel.reply(ask_later(rig, command, **arguments), "control")


def ask_later(rig: Rig, command: str, **arguments: Any) -> str:
    """A debug request; its reply is on the control channel."""
    content = {"type": "request", "seq": next(SEQUENCE), "command": command, "arguments": arguments}
    return rig.kernel.send("debug_request", content, "control")


def initialize(rig: Rig) -> dict[str, Any]:
    """What a frontend sends first."""
    return ask(rig, "initialize", clientID="test", adapterID="", pathFormat="path")


def test_variables_are_not_looked_at_while_reclaimed(rig: Rig) -> None:
    """Variable requests are refused with an empty body while reclaimed, the kernel lives, and later they work."""
    rig.kernel.run("class Shown:\n    def __repr__(self): return t.read()\nshown = Shown()")
    rig.reclaim()
    for command in ("inspectVariables", "richInspectVariables", "evaluate", "variables", "copyToGlobals"):
        reply = ask(rig, command, variableName="shown", expression="shown", variablesReference=1)
        assert (reply["success"], reply["command"]) == (False, command)
    assert ask(rig, "inspectVariables")["body"] == {"variables": []}
    assert ask(rig, "debugInfo")["success"] is True
    assert rig.phase() == "reclaimed"
    rig.restore()
    variables = ask(rig, "inspectVariables")["body"]["variables"]
    assert "precious" in next(variable["value"] for variable in variables if variable["name"] == "shown")


def test_looking_at_variables_keeps_the_bytes_in_place(rig: Rig) -> None:
    """While the debugger evaluates user code, a suspend is refused as running."""
    rig.hold.touch()
    rig.kernel.run(
        "import os, time\n"
        "class Slow:\n"
        "    def __repr__(self):\n"
        "        while os.path.exists(HOLD): time.sleep(0.01)\n"
        "        return t.read()\n"
        "slow = Slow()"
    )
    seen = len(rig.server.heard)
    request = ask_later(rig, "inspectVariables")
    rig.server.wait_for(lambda m: m["op"] == "status" and m["running_since_at"] is not None, seen)
    reply = rig.server.ask("suspend")
    assert (reply["outcome"], reply["reason"]) == ("refused", "running")
    rig.hold.unlink()
    assert "precious" in str(rig.kernel.reply(request, "control"))
    rig.kernel.run("del slow")


def test_switching_the_debugger_on_does_not_wake(own_rig: Rig) -> None:
    """`initialize` in a reclaimed kernel starts the debugger without running user hooks and without a restore."""
    rig = own_rig
    rig.kernel.run("get_ipython().events.register('pre_execute', lambda: t.read())")
    rig.reclaim()
    assert initialize(rig).get("success", True) is True
    assert rig.phase() == "reclaimed"
    assert ask(rig, "debugInfo")["body"]["isStarted"] is True
    request = rig.start_waiting()
    rig.restore()
    assert rig.kernel.finish(request).text == "'precious'"


def test_switching_the_debugger_on_does_not_block_behind_a_wait(own_rig: Rig) -> None:
    """`initialize` is refused while a cell waits: it would block the control channel until that cell ends."""
    rig = own_rig
    rig.reclaim()
    request = rig.start_waiting()
    assert initialize(rig)["success"] is False
    rig.restore()
    assert rig.kernel.finish(request).text == "'precious'"
    assert initialize(rig)["success"] is True
