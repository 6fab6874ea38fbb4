"""The link between agent and server: greeting, requests during a move, loss of the server, forks."""

from __future__ import annotations

import itertools
import os
import signal

from kernel_rig import Rig
from server_end import ENDED

from jupyter_gpu_reclaim.agent import protocol


def test_hello_and_first_status(rig: Rig) -> None:
    """The first line is a complete hello, and once welcomed the agent sends a status with every key of the protocol."""
    hello = rig.server.heard[0]
    assert hello["op"] == "hello"
    assert (hello["version"], hello["kernel_id"]) == (protocol.VERSION, "k-1")
    assert (hello["secret"], hello["pid"], hello["phase"]) == (rig.kernel.secret, rig.kernel.pid, "resident")
    assert hello["ipykernel"] == rig.kernel.value("__import__('ipykernel').__version__")
    status = rig.server.wait_for_op("status")
    assert set(status) == {"op", *protocol.STATUS_KEYS}


def test_a_reclaim_and_its_restore_are_measured(rig: Rig) -> None:
    """Replies carry what was moved, freed and needed; the status tells the new phase before the reply comes."""
    reply = rig.reclaim()
    told = [message for message in rig.server.heard if message["op"] in ("status", "reply")]
    assert told[-1] == reply
    assert told[-2]["phase"] == "reclaimed"
    assert (reply["moved_bytes"], reply["freed_bytes"]) == (8, {"GPU-test": 8})
    assert (reply["needed_bytes"], reply["unmovable"]) == ({"GPU-test": 8}, {})
    status = rig.server.ask("look")
    assert (status["host_bytes"], status["needed_bytes"]) == (8, {"GPU-test": 8})
    assert status["gpus"]["GPU-test"]["allocated_bytes"] == 0
    reply = rig.restore()
    assert (reply["moved_bytes"], rig.server.ask("look")["needed_bytes"]) == (8, {})


def test_the_server_is_heard_during_a_move(rig: Rig) -> None:
    """While bytes move the agent answers `look`, tells the progress, and refuses a second move as in flight."""
    rig.hold.touch()
    seen = len(rig.server.heard)
    suspension = rig.server.ask_later("suspend")
    assert rig.server.wait_for_op("progress", seen)["total_bytes"] == 8
    assert rig.server.ask("look")["phase"] == "reclaiming"
    second = rig.server.ask("resume")
    assert (second["outcome"], second["reason"]) == ("refused", "in_flight")
    rig.hold.unlink()
    assert rig.server.reply(suspension)["outcome"] == "done"


def test_refusals_say_why(rig: Rig) -> None:
    """Each reason not to move is told by name, and nothing is touched."""
    rig.kernel.run("kept, mechanism.tensors = mechanism.tensors, []")
    assert rig.server.ask("suspend")["reason"] == "no_gpu_memory"
    rig.kernel.run("mechanism.tensors = kept")
    assert rig.server.ask("suspend", host_limit_bytes=3)["reason"] == "host_memory"
    assert rig.server.ask("resume")["reason"] == "already_resident"
    rig.kernel.run(
        "import threading; stop = threading.Event()\ndef look(): \n  while not stop.wait(0.01): t.read()"
    )
    rig.kernel.run("thread = threading.Thread(target=look); thread.start()")
    reply = rig.server.ask("suspend")
    assert (reply["outcome"], reply["reason"]) == ("refused", "background_work")
    assert "look" in reply["detail"]
    assert rig.server.ask("look")["background_work"]
    rig.kernel.run("stop.set(); thread.join()")
    assert rig.server.ask("look")["background_work"] == []
    rig.reclaim()
    assert rig.server.ask("suspend")["reason"] == "already_reclaimed"


def test_failed_moves_can_be_tried_again(rig: Rig) -> None:
    """A failed offload leaves the kernel resident; a failed onload leaves it reclaimed, and the next one succeeds."""
    rig.kernel.run("mechanism.fails.update(offload=(1, RuntimeError, 'a bit fell over'))")
    reply = rig.server.ask("suspend")
    assert (reply["outcome"], reply["memory_intact"], reply["out_of_memory"]) == ("failed", True, False)
    assert "a bit fell over" in reply["error"]
    assert rig.kernel.run("t.read()").text == "'precious'"

    rig.kernel.run("mechanism.fails.update(onload=(1, OutOfDeviceMemory, 'no room: 8 bytes short'))")
    rig.reclaim()
    request = rig.start_waiting()
    reply = rig.server.ask("resume")
    assert (reply["outcome"], reply["memory_intact"], reply["out_of_memory"]) == ("failed", True, True)
    assert reply["error"] == "no room: 8 bytes short"
    status = rig.server.ask("look")
    assert (status["phase"], status["waiting"]) == ("reclaimed", 1)
    rig.restore()
    assert rig.kernel.finish(request).text == "'precious'"


def test_an_idle_agent_is_silent(rig: Rig) -> None:
    """A status is sent when something has changed, not on every beat."""
    rig.server.ask("look")
    seen = len(rig.server.heard)
    changed_at = rig.kernel.run("mechanism.activity += 1")  # seen by the next beat but one at the latest
    assert changed_at.status == "ok"
    rig.server.wait_for(lambda m: m["op"] == "status" and m["allocator_active"] is not None, seen)
    rig.server.wait_for(lambda m: m["op"] == "status" and m["background_work"] == [], seen)
    statuses = [
        {key: value for key, value in message.items() if key != "op"}
        for message in rig.server.heard
        if message["op"] == "status"
    ]
    assert all(earlier != later for earlier, later in itertools.pairwise(statuses))


def test_work_of_the_allocator_is_noticed(rig: Rig) -> None:
    """When allocator counters move although no user code has passed the gate, the status says so, and then no more."""
    seen = len(rig.server.heard)
    rig.kernel.run(
        "import threading\ndef bump(): mechanism.activity += 1\nthreading.Timer(0.7, bump).start()"
    )
    rig.server.wait_for_op("status", seen, allocator_active=False)
    rig.server.wait_for_op("status", seen, allocator_active=True)
    noticed = len(rig.server.heard)
    rig.server.wait_for_op("status", noticed, allocator_active=False)


def test_a_lost_server_is_found_again(rig: Rig) -> None:
    """After the server comes back the agent says hello with its phase, tells all anew, and has leaked no descriptor."""
    rig.reclaim()
    first = len(rig.server.heard)
    descriptors = len(os.listdir(f"/proc/{rig.kernel.pid}/fd"))
    for _ in range(5):
        seen = len(rig.server.heard)
        rig.server.vanish()
        rig.server.listen()
        assert rig.server.wait_for_op("hello", seen)["phase"] == "reclaimed"
        rig.server.wait_for_op("status", seen)
    assert len(os.listdir(f"/proc/{rig.kernel.pid}/fd")) == descriptors
    request = rig.start_waiting()
    rig.restore()
    assert rig.kernel.finish(request).text == "'precious'"
    assert len([m for m in rig.server.heard[first:] if m["op"] == "hello"]) == 5


def test_a_waiting_cell_survives_the_server(rig: Rig) -> None:
    """If the server vanishes while a cell waits, the agent restores by itself after the grace and says so later."""
    before = rig.server.ask("look")["notes"]
    rig.reclaim()
    request = rig.start_waiting()
    seen = len(rig.server.heard)
    rig.server.vanish()
    assert rig.kernel.finish(request).text == "'precious'"
    rig.server.listen()
    assert rig.server.wait_for_op("hello", seen)["phase"] == "resident"
    notes = rig.server.wait_for(lambda m: m["op"] == "status" and m["notes"] != before, seen)["notes"]
    assert notes[-1].startswith("Restored by itself: user code waited")


def test_a_waiting_cell_survives_a_server_that_hangs(own_rig: Rig) -> None:
    """A server that keeps its socket but says nothing any more counts as gone: the cell gets its data without it."""
    rig = own_rig
    rig.reclaim()
    rig.server.is_alive = False
    request = rig.start_waiting()
    assert rig.kernel.finish(request).text == "'precious'"
    rig.server.is_alive = True
    assert rig.server.wait_for_op("status", phase="resident", waiting=0)


def test_without_server_and_without_room_the_cell_ends(rig: Rig) -> None:
    """No server and no room: the cell ends with one clear error, nothing is lost, and a later cell succeeds."""
    before = len(rig.server.ask("look")["notes"])
    rig.kernel.run("mechanism.fails.update(onload=(1, OutOfDeviceMemory, 'no room: 8 bytes short'))")
    rig.reclaim()
    request = rig.start_waiting()
    seen = len(rig.server.heard)
    rig.server.vanish()
    cell = rig.kernel.finish(request)
    assert cell.ename == "GPURestoreFailed"
    assert "no room: 8 bytes short" in cell.reply["evalue"]
    assert rig.kernel.run("t.read()").text == "'precious'"
    rig.server.listen()
    notes = rig.server.wait_for(lambda m: m["op"] == "status" and len(m["notes"]) >= before + 2, seen)[
        "notes"
    ]
    assert notes[-2].startswith("Could not restore by itself")
    assert notes[-1].startswith("Restored by itself")


def test_a_rejected_agent_stays_away(own_rig: Rig) -> None:
    """An agent whose hello is rejected leaves the kernel as it is and does not come back at once."""
    rig = own_rig
    seen = len(rig.server.heard)
    rig.server.rejects = True
    rig.server.vanish()
    rig.server.listen()
    rig.server.wait_for_op("hello", seen)
    # the next hello of an agent that only backs off would come within a second
    assert rig.kernel.run("import time; time.sleep(1.5); t.read()").text == "'precious'"
    assert len([m for m in rig.server.heard[seen:] if m["op"] == "hello"]) == 1


def test_a_forked_child_is_no_agent(own_rig: Rig) -> None:
    """A forked child lets go of the link and of the gate: the kernel's death is seen although the child lives on."""
    rig = own_rig
    cell = rig.kernel.run(
        "import os, signal\n"
        "ends = os.pipe()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(60)\n"
        "    os.write(ends[1], b'up=%d inside=%d' % (agent.link.up, len(agent.gate.inside)))\n"
        "    signal.pause()\n"
        "print(os.read(ends[0], 99).decode(), child)"
    )
    state, _, child = cell.text.rpartition(" ")
    assert state == "up=0 inside=0"
    os.kill(rig.kernel.pid, signal.SIGKILL)
    try:
        rig.server.wait_for_op(ENDED)
    finally:
        os.kill(int(child), signal.SIGKILL)
