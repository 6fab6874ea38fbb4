"""Kernels that end while their bytes are away: user handlers find their data, or do not run at all."""

from __future__ import annotations

import signal
from pathlib import Path

from kernel_rig import Rig

HANDLERS = """
import atexit
class Last:
    def __del__(self, open=open, path=FOLDER + '/del', t=t): open(path, 'w').write(t.read())
last = Last()
def last_words(): open(FOLDER + '/atexit', 'w').write(t.read())
atexit.register(last_words)
import faulthandler; faulthandler.enable(open(FOLDER + '/crash', 'w'))
"""


def with_handlers(rig: Rig) -> Rig:
    """Have user code read a tensor at exit: in an atexit handler and in a finaliser."""
    cell = rig.kernel.run(f"FOLDER = {str(rig.folder)!r}\n{HANDLERS}")
    assert cell.status == "ok", cell.reply
    return rig


def written(folder: Path) -> dict[str, str]:
    """What the handlers left, by their name."""
    return {name: (folder / name).read_text() for name in ("atexit", "del") if (folder / name).exists()}


def end(rig: Rig) -> None:
    """Ask the kernel to shut down, as the server does, and wait for its end."""
    rig.kernel.client.shutdown()
    rig.kernel.wait_until_gone()


def test_handlers_read_their_data_at_exit(own_rig: Rig) -> None:
    """At shutdown while reclaimed the bytes come back before any handler of the user's, and the server is told."""
    rig = with_handlers(own_rig)
    rig.reclaim()
    seen = len(rig.server.heard)
    end(rig)
    assert written(rig.folder) == {"atexit": "precious", "del": "precious"}
    assert (rig.folder / "crash").read_text() == ""
    notes = rig.server.wait_for(lambda m: m["op"] == "status" and m["notes"], seen)["notes"]
    assert notes == ["Restored by itself: the kernel is ending"]


def test_a_failed_restore_at_exit_is_tried_again(own_rig: Rig) -> None:
    """Two failures at exit, then success: the handlers still find their data."""
    rig = with_handlers(own_rig)
    rig.kernel.run("mechanism.fails.update(onload=(2, OutOfDeviceMemory, 'no room'))")
    rig.reclaim()
    end(rig)
    assert written(rig.folder) == {"atexit": "precious", "del": "precious"}


def test_no_handler_runs_on_memory_that_is_away(own_rig: Rig) -> None:
    """If the bytes cannot come back, no handler runs, nothing crashes, and the server and its log are told why."""
    rig = with_handlers(own_rig)
    rig.kernel.run("mechanism.fails.update(onload=(99, OutOfDeviceMemory, 'no room: 8 bytes short'))")
    rig.reclaim()
    seen = len(rig.server.heard)
    end(rig)
    assert written(rig.folder) == {}
    assert (rig.folder / "crash").read_text() == ""
    assert rig.kernel.manager.provisioner.process.returncode != -signal.SIGABRT
    note = rig.server.wait_for(lambda m: m["op"] == "status" and m["notes"], seen)["notes"][-1]
    assert "no room: 8 bytes short" in note
    assert note in rig.kernel.log.read_text()


def test_a_cell_that_waits_does_not_hold_up_the_end(own_rig: Rig) -> None:
    """Shutdown while a cell waits ends the wait with an error, restores, and runs the handlers."""
    rig = with_handlers(own_rig)
    rig.reclaim()
    request = rig.start_waiting()
    rig.kernel.client.shutdown()
    assert rig.kernel.reply(request)["ename"] == "GPURestoreInterrupted"
    rig.kernel.wait_until_gone()
    assert written(rig.folder) == {"atexit": "precious", "del": "precious"}


def test_the_end_cancels_an_offload(own_rig: Rig) -> None:
    """A kernel told to end in the midst of an offload rolls it back and runs its handlers."""
    rig = with_handlers(own_rig)
    rig.hold.touch()
    suspension = rig.server.ask_later("suspend")
    rig.server.wait_for_op("progress")
    end(rig)
    assert rig.server.reply(suspension)["reason"] == "cancelled"
    assert written(rig.folder) == {"atexit": "precious", "del": "precious"}


def test_the_end_waits_for_a_restore(own_rig: Rig) -> None:
    """A kernel told to end in the midst of a restore finishes it first."""
    rig = with_handlers(own_rig)
    rig.reclaim()
    rig.hold.touch()
    seen = len(rig.server.heard)
    resumption = rig.server.ask_later("resume")
    rig.server.wait_for_op("status", seen, phase="restoring")
    rig.kernel.client.shutdown()
    rig.hold.unlink()
    assert rig.server.reply(resumption)["outcome"] == "done"
    rig.kernel.wait_until_gone()
    assert written(rig.folder) == {"atexit": "precious", "del": "precious"}


def test_a_restart_begins_resident(own_rig: Rig) -> None:
    """Restarting a reclaimed kernel runs the old one's handlers and gives a new, resident one."""
    rig = with_handlers(own_rig)
    rig.reclaim()
    seen = len(rig.server.heard)
    rig.kernel.manager.restart_kernel(now=False)
    assert rig.server.wait_for_op("hello", seen)["phase"] == "resident"
    assert written(rig.folder) == {"atexit": "precious", "del": "precious"}
