"""A Jupyter server with us in it, in a process of its own, for tests that are plain functions."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from openapi import check_reply

from jupyter_gpu_reclaim.demo.jupyter_session import JupyterServer, OpenNotebook

T = TypeVar("T")
DEADLINE_SECONDS = 60
SETTINGS = {
    "GpuReclaim.idle_after_seconds": 3600,
    "GpuReclaim.pressure_idle_after_seconds": 0,
    "GpuReclaim.cooldown_seconds": 0,
    "GpuReclaim.min_reclaim_bytes": 0,
    "GpuReclaim.host_reserve_bytes": 0,
    "GpuReclaim.tick_seconds": 0.2,
    "GpuReclaim.sample_seconds": 0.2,
}
LAUNCH = ("-m", "ipykernel_launcher", "-f", "{connection_file}")


class RunningServer:
    """The server and the event loop on which a test speaks to it. A context manager."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._runner = asyncio.Runner()
        self.jupyter = JupyterServer(folder, {**SETTINGS, **(settings or {})}, environment or {})

    def __enter__(self) -> RunningServer:
        self.run(self.jupyter.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self.run(self.jupyter.__aexit__(None, None, None))
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, awaited on the server's loop."""
        return self._runner.run(work)

    def kernelspec(self, name: str, argv: list[str] | None = None, **more: Any) -> str:
        """Install a kernelspec; ipykernel of this environment where `argv` is not given. Its name."""
        folder = self.folder / "data" / "kernels" / name
        folder.mkdir(parents=True)
        spec = {"argv": argv or [sys.executable, *LAUNCH], "display_name": name, "language": "python", **more}
        (folder / "kernel.json").write_text(json.dumps(spec))
        return name

    async def call(
        self, method: str, path: str, body: Any = None, kernel_id: str = "", alarm_id: str = ""
    ) -> tuple[int, Any]:
        """One call of our API: (code, body), the body held to `openapi.yaml`."""
        codes: list[int] = []
        reply = await self.jupyter.request(
            method,
            "/gpu-reclaim/api" + path.format(kernel_id=kernel_id, alarm_id=alarm_id),
            body,
            accept=AnyCode(codes),
        )
        code = codes[0] if codes else {"POST": 202, "DELETE": 204}.get(method, 200)
        check_reply(method, path, code, reply)
        return code, reply

    async def until(self, condition: Callable[[dict[str, Any]], Any], kernel_id: str) -> dict[str, Any]:
        """The kernel's row in the status, once `condition` holds for it."""
        row: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while row is None or not condition(row):
                    _, status = await self.call("GET", "/status")
                    row = next((row for row in status["kernels"] if row["kernel_id"] == kernel_id), None)
                    await asyncio.sleep(0.05)  # the status has no push
        except TimeoutError:
            raise AssertionError(f"it did not come about; last: {row}\n{self.jupyter.log_tail(40)}") from None
        return row

    async def until_gone(self, kernel_id: str) -> None:
        """Wait until the status does not list the kernel any more."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while any(row["kernel_id"] == kernel_id for row in (await self.jupyter.status())["kernels"]):
                await asyncio.sleep(0.05)

    async def open(self, path: str, kernel_name: str = "python3") -> OpenNotebook:
        """A notebook whose kernel answers."""
        return await self.jupyter.open_notebook(path, kernel_name)

    async def shut_down(self, notebook: OpenNotebook) -> None:
        """End a notebook's kernel."""
        notebook.close()
        await self.jupyter.request("DELETE", f"/api/kernels/{notebook.kernel_id}")


class AnyCode:
    """Accepts every HTTP code, and keeps it."""

    def __init__(self, codes: list[int]) -> None:
        self._codes = codes

    def __contains__(self, code: int) -> bool:
        self._codes.append(code)
        return True
