"""The gate in front of real kernels: what waits, what is answered at once, what an interrupt does."""

from __future__ import annotations

import os
import signal
import time

import pytest
from kernel_rig import Rig

INTERRUPTED = "GPURestoreInterrupted"
BURSTS = 24


def test_cell_waits_for_the_restore(rig: Rig) -> None:
    """A cell that reaches the closed gate asks for a restore, waits, and then reads its data as if nothing had been."""
    rig.reclaim()
    request = rig.start_waiting("t.read()")
    rig.restore()
    cell = rig.kernel.finish(request)
    assert (cell.status, cell.text) == ("ok", "'precious'")


def test_suspend_is_refused_while_a_cell_runs(rig: Rig) -> None:
    """A kernel with a cell at work refuses, and the status says since when it runs."""
    seen = len(rig.server.heard)
    rig.hold.touch()
    request = rig.kernel.client.execute("import os, time\nwhile os.path.exists(HOLD): time.sleep(0.01)")
    rig.server.wait_for(lambda m: m["op"] == "status" and m["running_since_at"] is not None, seen)
    reply = rig.server.ask("suspend")
    rig.hold.unlink()
    assert (reply["outcome"], reply["reason"]) == ("refused", "running")
    assert rig.kernel.finish(request).status == "ok"
    assert rig.phase() == "resident"


def test_cell_during_the_offload_cancels_it(rig: Rig) -> None:
    """User code that arrives before the commit cancels the offload and runs at once, without any restore."""
    rig.hold.touch()
    suspension = rig.server.ask_later("suspend")
    rig.server.wait_for_op("progress", len(rig.server.heard))
    cell = rig.kernel.run("t.read()")
    assert (cell.status, cell.text) == ("ok", "'precious'")
    reply = rig.server.reply(suspension)
    assert (reply["outcome"], reply["reason"]) == ("refused", "cancelled")
    assert rig.phase() == "resident"


def test_interrupted_cell_did_not_run(rig: Rig) -> None:
    """An interrupt ends the wait with one clear error; the count is not consumed, the kernel stays reclaimed."""
    count = rig.kernel.run("t.read()").reply["execution_count"]
    rig.reclaim()
    request = rig.start_waiting("ran = True")
    seen = len(rig.server.heard)
    rig.kernel.interrupt()
    cell = rig.kernel.finish(request)
    assert (cell.status, cell.ename) == ("error", INTERRUPTED)
    assert [shown["ename"] for shown in cell.shown] == [INTERRUPTED]
    assert "did not run" in cell.reply["evalue"]
    rig.server.wait_for_op("restore_unwanted", seen)
    assert rig.phase() == "reclaimed"

    request = rig.start_waiting("'ran' in globals()")
    rig.restore()
    after = rig.kernel.finish(request)
    assert (after.text, after.reply["execution_count"]) == ("False", count + 1)


def test_cells_queued_behind_an_interrupted_one_are_aborted(rig: Rig) -> None:
    """As after any error, cells queued behind the interrupted one do not run."""
    rig.reclaim()
    seen = len(rig.server.heard)
    first = rig.kernel.client.execute("1", stop_on_error=True)
    second = rig.kernel.client.execute("late = True")  # sent before the first waits: it is queued by then
    rig.server.wait_for_op("restore_wanted", seen)
    rig.kernel.interrupt()
    assert rig.kernel.reply(first)["ename"] == INTERRUPTED
    assert rig.kernel.reply(second)["status"] == "aborted"
    rig.restore()
    assert rig.kernel.value("'late' in globals()") is False


def test_interrupt_during_the_restore_loses_nothing(rig: Rig) -> None:
    """An interrupt while the bytes come back ends the cell, the restore completes, the next cell reads its data."""
    rig.reclaim()
    request = rig.start_waiting()
    rig.hold.touch()
    heard = len(rig.server.heard)
    resumption = rig.server.ask_later("resume")
    rig.server.wait_for_op("status", heard, phase="restoring")
    rig.kernel.interrupt()
    assert rig.kernel.finish(request).ename == INTERRUPTED
    rig.hold.unlink()
    assert rig.server.reply(resumption)["outcome"] == "done"
    assert rig.kernel.run("t.read()").text == "'precious'"


def test_the_server_ends_a_wait(rig: Rig) -> None:
    """`end_wait` ends the waiting cell with the server's own sentence; the next cell asks again."""
    rig.reclaim()
    request = rig.start_waiting()
    rig.server.tell("end_wait", message="no room came free within 10 minutes")
    cell = rig.kernel.finish(request)
    assert (cell.ename, cell.reply["evalue"]) == ("GPURestoreTimeout", "no room came free within 10 minutes")
    request = rig.start_waiting()
    rig.restore()
    assert rig.kernel.finish(request).text == "'precious'"


def test_silent_execution_waits_but_is_no_activity(rig: Rig) -> None:
    """A silent execution passes the gate (it may touch tensors) and does not move the idle clock."""
    active_at = rig.server.ask("look")["last_active_at"]
    rig.reclaim()
    seen = len(rig.server.heard)
    request = rig.kernel.client.execute("silently = t.read()", silent=True)
    rig.server.wait_for_op("restore_wanted", seen, trigger="execute")
    rig.restore()
    assert rig.kernel.finish(request).status == "ok"
    assert rig.server.ask("look")["last_active_at"] == active_at
    assert rig.kernel.value("silently") == "precious"
    assert rig.server.ask("look")["last_active_at"] > active_at


def test_user_expressions_wait(rig: Rig) -> None:
    """An empty silent request with user expressions evaluates user code, so it waits."""
    rig.reclaim()
    seen = len(rig.server.heard)
    request = rig.kernel.client.execute("", silent=True, user_expressions={"x": "t.read()"})
    rig.server.wait_for_op("restore_wanted", seen)
    rig.restore()
    assert "precious" in rig.kernel.finish(request).reply["user_expressions"]["x"]["data"]["text/plain"]


def test_an_empty_silent_request_does_not_wake(rig: Rig) -> None:
    """The probe that some clients send is answered, and no user hook runs for it."""
    rig.kernel.run("get_ipython().events.register('post_execute', lambda: t.read())")
    rig.reclaim()
    assert rig.kernel.run("", silent=True).status == "ok"
    assert rig.phase() == "reclaimed"
    rig.restore()
    rig.kernel.run("get_ipython().events.callbacks['post_execute'].pop()")


def test_questions_about_code_are_answered_empty_while_reclaimed(rig: Rig) -> None:
    """Completion and inspection run user code: empty and at once while reclaimed, in full when resident."""
    rig.kernel.run(
        "class Trap:\n    def __dir__(self): return [t.read()]\n    def __repr__(self): return t.read()"
    )
    rig.kernel.run("trap = Trap()")
    rig.reclaim()
    kernel = rig.kernel
    complete = {"code": "trap.", "cursor_pos": 5}
    inspect = {"code": "trap", "cursor_pos": 4, "detail_level": 0}
    assert kernel.reply(kernel.send("complete_request", complete))["matches"] == []
    assert kernel.reply(kernel.send("inspect_request", inspect))["found"] is False
    assert kernel.reply(kernel.send("complete_request", complete, "control"), "control")["matches"] == []
    assert rig.phase() == "reclaimed"
    rig.restore()
    assert kernel.reply(kernel.send("complete_request", complete))["matches"] != []
    assert "precious" in kernel.reply(kernel.send("inspect_request", inspect))["data"]["text/plain"]


def test_questions_about_the_kernel_pass(rig: Rig) -> None:
    """What runs no user code is answered as ever by a reclaimed kernel, which stays reclaimed."""
    rig.reclaim()
    kernel = rig.kernel
    questions = {
        "kernel_info_request": {},
        "comm_info_request": {},
        "is_complete_request": {"code": "x = ("},
        "history_request": {"hist_access_type": "tail", "n": 1, "output": False, "raw": True},
    }
    for question, content in questions.items():
        assert kernel.reply(kernel.send(question, content))["status"] in ("ok", "incomplete"), question
    assert kernel.reply(kernel.send("kernel_info_request", {}, "control"), "control")["status"] == "ok"
    assert rig.phase() == "reclaimed"


def test_a_cell_on_the_control_channel_never_blocks_it(rig: Rig) -> None:
    """A reclaimed kernel refuses code on the control channel at once: shutdown must get through there."""
    rig.reclaim()
    kernel = rig.kernel
    content = {"code": "t.read()", "silent": False, "user_expressions": {}, "store_history": False}
    reply = kernel.reply(kernel.send("execute_request", content, "control"), "control")
    assert (reply["status"], reply["ename"]) == ("error", "GPURestoreNeeded")
    assert rig.phase() == "reclaimed"


def test_comm_messages_of_the_user_wait(rig: Rig) -> None:
    """A comm message for user code waits for the restore and is activity; interrupted, it is dropped with an error."""
    rig.kernel.run(
        "heard = []\n"
        "def opened(comm, message): comm.on_msg(lambda m: heard.append((m['content']['data'], t.read())))\n"
        "get_ipython().kernel.comm_manager.register_target('mine', opened)"
    )
    opening = rig.kernel.send("comm_open", {"comm_id": "c1", "target_name": "mine", "data": {}})
    rig.kernel.wait_until_idle(opening)
    active_at = rig.server.ask("look")["last_active_at"]
    rig.reclaim()
    for data, interrupted in ((1, True), (2, False)):
        seen = len(rig.server.heard)
        message = rig.kernel.send("comm_msg", {"comm_id": "c1", "data": data})
        rig.server.wait_for_op("restore_wanted", seen, trigger="comm_msg")
        if interrupted:
            rig.kernel.interrupt()
            errors = [shown for shown in rig.kernel.wait_until_idle(message) if shown["msg_type"] == "error"]
            assert [error["ename"] for error in errors] == [INTERRUPTED]
            assert rig.server.ask("look")["last_active_at"] == active_at
    rig.restore()
    rig.kernel.wait_until_idle(message)
    assert rig.server.ask("look")["last_active_at"] > active_at
    assert rig.kernel.value("heard") == [[2, "precious"]]


def test_waits_of_subshells_end(rig: Rig) -> None:
    """A cell in a subshell waits like any other; no signal reaches it, so the server ends its wait."""
    kernel = rig.kernel
    created = kernel.send("create_subshell_request", {}, "control")
    if "create_subshell_request" not in kernel.value("list(get_ipython().kernel.control_handlers)"):
        pytest.skip("this ipykernel has no subshells")
    subshell = kernel.reply(created, "control")["subshell_id"]
    rig.reclaim()

    def start_in_subshell() -> str:
        seen = len(rig.server.heard)
        content = {"code": "t.read()", "silent": False, "user_expressions": {}, "store_history": True}
        message = kernel.client.session.msg("execute_request", content)
        message["header"]["subshell_id"] = subshell
        kernel.client.shell_channel.send(message)
        rig.server.wait_for_op("restore_wanted", seen)
        return message["header"]["msg_id"]

    first = start_in_subshell()
    rig.server.tell("end_wait", message="interrupted", interrupted=True)
    assert kernel.finish(first).ename == INTERRUPTED
    second = start_in_subshell()
    rig.restore()
    assert kernel.finish(second).text == "'precious'"


def test_two_cells_wait_at_once(rig: Rig) -> None:
    """With a subshell and the main shell both waiting, the server hears of two, and one restore lets both in."""
    kernel = rig.kernel
    if "create_subshell_request" not in kernel.value("list(get_ipython().kernel.control_handlers)"):
        pytest.skip("this ipykernel has no subshells")
    subshell = kernel.reply(kernel.send("create_subshell_request", {}, "control"), "control")["subshell_id"]
    rig.reclaim()
    first = rig.start_waiting("t.read()")
    seen = len(rig.server.heard)
    content = {"code": "t.read()", "silent": False, "user_expressions": {}, "store_history": True}
    message = kernel.client.session.msg("execute_request", content)
    message["header"]["subshell_id"] = subshell
    kernel.client.shell_channel.send(message)
    rig.server.wait_for_op("restore_wanted", seen, cells=2)
    rig.restore()
    second = message["header"]["msg_id"]
    assert {kernel.reply(first)["status"], kernel.reply(second)["status"]} == {"ok"}


def test_interrupts_at_random_moments_leave_the_kernel_whole(rig: Rig) -> None:
    """Sixteen cells interrupted around the restore: none leaks a count, all data stays, the kernel reclaims again."""
    for number in range(16):
        rig.reclaim()
        seen = len(rig.server.heard)
        rig.kernel.client.execute("t.read()")
        if number % 4:
            rig.server.wait_for_op("restore_wanted", seen)
        resumption = rig.server.ask_later("resume")
        time.sleep(number % 5 * 0.0005)  # spreads the signal over the moments of the restore
        rig.kernel.interrupt()
        assert rig.server.reply(resumption)["outcome"] == "done"
        # the interrupt may take effect after its cell; an empty line of cells tells that it is over
        while rig.kernel.run("t.read()").status != "ok":
            pass
    status = rig.server.ask("look")
    assert (status["phase"], status["waiting"], status["running_since_at"]) == ("resident", 0, None)
    rig.reclaim()


def test_a_burst_of_interrupts_ends_the_wait_and_nothing_else(rig: Rig) -> None:
    """Someone who hammers the stop button while a cell waits ends that wait; the kernel lives and keeps its data."""
    rig.reclaim()
    for number in range(BURSTS):
        heard = len(rig.server.heard)
        rig.start_waiting()
        for _ in range(2 + number % 3):
            os.kill(rig.kernel.pid, signal.SIGINT)
            time.sleep(0.001 * (1 + number % 7))  # spreads the later signals over what follows the wait
        rig.server.wait_for_op("restore_unwanted", heard)
    rig.restore()
    while rig.kernel.run("t.read()").status != "ok":
        pass  # the last signal may have met this very cell
    assert rig.kernel.run("t.read()").text == "'precious'"


def test_each_newcomer_is_announced(rig: Rig) -> None:
    """A cell that comes right behind an interrupted one is announced by itself, however quickly it follows."""
    rig.reclaim()
    for _ in range(20):
        request = rig.start_waiting()
        rig.kernel.interrupt()
        assert rig.kernel.reply(request)["ename"] == INTERRUPTED
    request = rig.start_waiting()
    rig.restore()
    assert rig.kernel.finish(request).text == "'precious'"
