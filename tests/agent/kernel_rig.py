"""A kernel under test with the scripted server on the other end of its agent's link."""

from __future__ import annotations

from pathlib import Path

from real_kernel import RealKernel
from server_end import ServerEnd

MECHANISM = Path(__file__).with_name("bytes_mechanism.py")


class Rig:
    """A kernel whose agent is connected to a scripted server."""

    def __init__(self, python: str, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.hold = folder / "hold"
        self.server = ServerEnd(folder / "s")
        self.kernel = RealKernel(python, folder, folder / "s", **environment)

    def start(self) -> Rig:
        """Start both and wait for the agent's first status."""
        self.server.listen()
        try:
            self.kernel.start()
            self.server.wait_for_op("status")
        except BaseException:
            self.stop()
            raise
        return self

    def use_bytes(self) -> Rig:
        """Put the bytes mechanism in place, and one "tensor" `t`."""
        cell = self.kernel.run(f"HOLD = {str(self.hold)!r}\nexec(open({str(MECHANISM)!r}).read())")
        assert cell.status == "ok", cell.reply
        assert self.kernel.run("t = Bytes('precious')").status == "ok"
        return self

    def stop(self) -> None:
        """End both."""
        self.hold.unlink(missing_ok=True)
        self.kernel.stop()
        self.server.vanish()

    def reclaim(self) -> dict:
        """Suspend, which must succeed."""
        reply = self.server.ask("suspend")
        assert reply["outcome"] == "done", reply
        return reply

    def restore(self) -> dict:
        """Resume, which must succeed."""
        reply = self.server.ask("resume")
        assert reply["outcome"] == "done", reply
        return reply

    def phase(self) -> str:
        """Where the bytes are, as the agent says."""
        return self.server.ask("look")["phase"]

    def start_waiting(self, code: str = "t.read()") -> str:
        """Send a cell to the reclaimed kernel; returns when it waits at the gate. Its error would abort no other."""
        seen = len(self.server.heard)
        request = self.kernel.client.execute(code, stop_on_error=False)
        self.server.wait_for_op("restore_wanted", seen)
        return request
