"""Automatic garbage collection: no finaliser of the user's may run beside the closed gate."""

from __future__ import annotations

from kernel_rig import Rig

GARBAGE = """
import gc, threading
finalised = []
class Cycle:
    def __init__(self): self.me = self
    def __del__(self): finalised.append((threading.current_thread() is threading.main_thread(), t.read()))
gc.collect()
for _ in range(3): Cycle()
"""


def test_no_finaliser_runs_while_reclaimed(rig: Rig) -> None:
    """Cyclic garbage survives hundreds of requests to a reclaimed kernel; it is finalised later, on the main thread."""
    rig.kernel.run(GARBAGE)
    rig.reclaim()
    kernel = rig.kernel
    for _ in range(200):
        requests = [kernel.send("kernel_info_request", {}), kernel.send("comm_info_request", {})]
        for request in requests:
            assert kernel.reply(request)["status"] == "ok"
    assert rig.phase() == "reclaimed"
    rig.restore()
    kernel.run("gc.collect()")
    assert kernel.value("[len(finalised), all(main for main, _ in finalised), finalised[0][1]]") == [
        3,
        True,
        "precious",
    ]
    assert kernel.value("gc.isenabled()") is True


def test_collection_resumes_without_any_cell(rig: Rig) -> None:
    """After a restore that no cell asked for, collection is on again on its own, seen through a comm-free request."""
    rig.kernel.run(
        "import gc, __main__; __main__.Probe = type('Probe', (), {'__dir__': lambda s: [f'on_{gc.isenabled()}']})"
    )
    rig.kernel.run("probe = Probe()")
    rig.reclaim()
    rig.restore()
    content = {"code": "probe.on", "cursor_pos": 8}
    assert "on_True" in str(rig.kernel.reply(rig.kernel.send("complete_request", content))["matches"])


def test_collection_switched_off_by_the_user_stays_off(rig: Rig) -> None:
    """A user's own gc.disable() is respected."""
    rig.kernel.run("import gc; gc.disable()")
    rig.reclaim()
    rig.restore()
    assert rig.kernel.value("gc.isenabled()") is False
    rig.kernel.run("gc.enable()")
