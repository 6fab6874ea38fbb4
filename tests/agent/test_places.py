"""Running places: a cell of a kernel that holds GPU memory waits its turn at the open gate."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_rig import Rig


class InLine(Rig):
    """A kernel whose server hands out running places."""

    def __init__(self, python: str, folder: Path) -> None:
        super().__init__(python, folder)
        self.server.welcome["places"] = True

    def start_in_line(self, code: str) -> str:
        """Send a cell; returns when the server has heard that it waits for a place."""
        seen = len(self.server.heard)
        request = self.kernel.client.execute(code, stop_on_error=False)
        self.server.wait_for(lambda told: told["op"] == "status" and told["place_wanted_at"], seen)
        return request

    def admitted(self, code: str) -> str:
        """What a cell shows that waits for a place and is given one."""
        request = self.start_in_line(code)
        self.server.tell("admit")
        cell = self.kernel.finish(request)
        assert cell.status == "ok", cell.reply
        return cell.text


@pytest.fixture(scope="module")
def shared_line(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InLine]:
    """One kernel for the tests that leave it whole."""
    rig = InLine(python, tmp_path_factory.mktemp("p"))
    yield rig.start().use_bytes()
    rig.stop()


@pytest.fixture
def line(shared_line: InLine) -> InLine:
    """The same, resident and idle."""
    shared_line.server.ask("resume")  # refused when it is resident
    return shared_line


def test_a_cell_waits_its_turn_and_is_seen_to(line: InLine) -> None:
    """It waits at the open gate, told apart from one at the closed gate; admitted it runs; each cell asks anew."""
    for number in range(3):
        request = line.start_in_line(f"{number}; t.read()")
        status = line.server.ask("look")
        assert (status["phase"], status["waiting"], status["running_since_at"]) == ("resident", 0, None)
        assert status["place_wanted_at"] is not None
        seen = len(line.server.heard)
        line.server.tell("admit")
        assert line.kernel.finish(request).text == "'precious'"
        line.server.wait_for_op("status", seen, place_wanted_at=None, running_since_at=None)


def test_the_server_can_always_count_who_waits_and_who_runs(line: InLine) -> None:
    """Admitted or restored, whatever the agent says until the cell's end says of itself that code waits or runs."""
    busy = line.folder / "counted"
    os.mkfifo(busy)
    for begin, go in ((line.start_in_line, "admit"), (line.start_waiting, "resume")):
        if go == "resume":
            line.reclaim()
        request = begin(f"open({str(busy)!r}).read()")
        seen, told_at = len(line.server.heard), time.time()
        line.server.ask_later(go)
        with busy.open("w"):
            line.server.wait_for_op("status", seen, phase="resident", waiting=0, place_wanted_at=None)
            assert line.server.ask("look")["running_since_at"] > told_at, "what it has waited it has not run"
            told = [m for m in line.server.heard[seen:] if m["op"] not in ("ping", "progress", "reply")]
        assert line.kernel.finish(request).status == "ok"
        assert {message["op"] for message in told} == {"status"}
        assert all(m["waiting"] or m["place_wanted_at"] or m["running_since_at"] for m in told), told


def test_the_end_of_a_turn_is_told_at_once(python: str, tmp_path: Path) -> None:
    """Two kernels, one place: the second runs when the first has left, long before the next regular report; with the
    end is told what the kernel holds now."""
    first, second = (InLine(python, tmp_path / name) for name in "ab")
    try:
        for rig in (first, second):
            rig.server.welcome["sample_seconds"] = 3600.0
            rig.start().use_bytes()
        busy = tmp_path / "busy"
        os.mkfifo(busy)
        running = first.start_in_line(f"open({str(busy)!r}).read(); u = Bytes('more')")
        seen = len(first.server.heard)
        first.server.tell("admit")
        with busy.open("w"):
            first.server.wait_for(lambda told: told["op"] == "status" and told["running_since_at"], seen)
            waiting = second.start_in_line("print('second')")
            assert second.server.ask("look")["running_since_at"] is None
            seen = len(first.server.heard)
        ended = first.server.wait_for_op("status", seen, running_since_at=None)
        assert ended["gpus"]["GPU-test"]["allocated_bytes"] == len("precious") + len("more")
        second.server.tell("admit")
        assert second.kernel.finish(waiting).text == "second"
        assert first.kernel.finish(running).status == "ok"
    finally:
        first.stop()
        second.stop()


def test_without_gpu_memory_nobody_waits(python: str, tmp_path: Path) -> None:
    """Until the kernel holds bytes its cells just run, and nothing is asked of the server."""
    rig = InLine(python, tmp_path)
    try:
        rig.start()
        assert rig.kernel.run("1 + 1").text == "2"
        rig.use_bytes()  # two more cells; the second takes the bytes
        assert not any(told.get("place_wanted_at") for told in rig.server.heard)
        assert rig.admitted("t.read()") == "'precious'"
    finally:
        rig.stop()


def test_an_interrupt_ends_the_wait_in_line(line: InLine) -> None:
    """The cell ends with one clear error, has not run, and the next one asks again; so does one the server ends."""
    request = line.start_in_line("ran = True")
    line.kernel.interrupt()
    cell = line.kernel.finish(request)
    assert cell.ename == "GPURestoreInterrupted"
    assert "its turn on the GPU" in cell.reply["evalue"]
    request = line.start_in_line("ran = True")
    line.server.tell("end_wait", message="no turn for ten minutes", interrupted=False)
    cell = line.kernel.finish(request)
    assert (cell.ename, cell.reply["evalue"]) == ("GPURestoreTimeout", "no turn for ten minutes")
    assert line.admitted("'ran' in globals()") == "False"


def test_an_admission_for_nobody_is_no_place(line: InLine) -> None:
    """Admitted when the one who waited has given up, the kernel's next cell waits all the same."""
    request = line.start_in_line("1")
    line.kernel.interrupt()
    assert line.kernel.finish(request).status == "error"
    line.server.tell("admit")
    assert line.admitted("t.read()") == "'precious'"


def test_a_restore_is_an_admission(line: InLine) -> None:
    """A cell that waited for the bytes runs when they are back, without asking for a place; the next one asks."""
    line.reclaim()
    request = line.start_waiting()
    seen = len(line.server.heard)
    line.restore()
    assert line.kernel.finish(request).text == "'precious'"
    assert not any(told.get("place_wanted_at") for told in line.server.heard[seen:])
    assert line.admitted("t.read()") == "'precious'"


def test_a_restore_for_nobody_is_no_place(line: InLine) -> None:
    """Restored by a wish, with no cell waiting, the kernel's next cell asks."""
    line.reclaim()
    line.restore()
    assert line.admitted("t.read()") == "'precious'"


def test_an_inspection_needs_no_place(line: InLine) -> None:
    """What is answered at once is answered at once, from the user's own names."""
    content = {"code": "mechanism", "cursor_pos": 9, "detail_level": 0}
    assert line.kernel.reply(line.kernel.send("inspect_request", content))["found"] is True


def test_without_a_server_everybody_goes_ahead(python: str, tmp_path: Path) -> None:
    """A server that dies lets the waiting cell run, and those that come while it is gone; back again it is asked."""
    rig = InLine(python, tmp_path)
    try:
        rig.start().use_bytes()
        request = rig.start_in_line("t.read()")
        rig.server.vanish()
        assert rig.kernel.finish(request).text == "'precious'"
        assert rig.kernel.run("t.read()").text == "'precious'"
        seen = len(rig.server.heard)
        rig.server.listen()
        rig.server.wait_for_op("status", seen)
        assert rig.admitted("t.read()") == "'precious'"
        request = rig.start_in_line("t.read()")
        rig.server.is_alive = False  # it hangs: connected, and silent
        assert rig.kernel.finish(request).text == "'precious'"
    finally:
        rig.stop()
