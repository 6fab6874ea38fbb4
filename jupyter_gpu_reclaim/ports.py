"""What the reconciler needs from the world, in the nouns of `core`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from jupyter_gpu_reclaim.core.model import Event, Gpu, Outcome, Reason, Snapshot, Transition


class Clock(Protocol):
    """Time, so that tests and replays can bring their own."""

    def now(self) -> datetime:
        """The present, aware, UTC."""
        ...


class Observer(Protocol):
    """Reads GPUs and kernels. Facts only: phases as the agents report them; wishes and pins are the reconciler's."""

    async def snapshot(self) -> Snapshot:
        """The world now. Never raises for a GPU, driver or kernel that cannot be read: what is unknown is `None`."""
        ...

    async def gpus(self) -> tuple[Gpu, ...] | None:
        """The GPUs alone, read after this call began. None when they cannot be read."""
        ...


class KernelControl(Protocol):
    """Acts on one kernel. No call raises: what goes wrong is an `Outcome`."""

    async def suspend(self, kernel_id: str, host_bytes: int, spill_bytes: int = 0) -> Outcome:
        """Close the gate and move the kernel's GPU bytes to the host. `Refused` if the agent finds user code.

        They may take at most `host_bytes` of its memory, and `spill_bytes` of its disk.
        """
        ...

    async def resume(self, kernel_id: str) -> Outcome:
        """Bring the bytes back and open the gate. After `Failed(memory_intact=True)` it may be tried again."""
        ...

    async def admit(self, kernel_id: str) -> None:
        """Let the code of a resident kernel go ahead that waits for room to allocate, or for a running place."""
        ...

    async def end_wait(self, kernel_id: str, message: str) -> None:
        """End the cells that wait at the kernel's gate with one clear error; its bytes stay safe in host memory."""
        ...


class ReclaimLog(Protocol):
    """The append-only log of transitions."""

    async def append(self, rows: Sequence[Transition]) -> None:
        """Write rows durably before returning; one whose id is there already is left alone. Raises `LogUnavailable`."""
        ...

    def complaint(self) -> str | None:
        """What does not work though no row is lost by it, as a sentence for people; None: all is well."""
        ...

    async def query(
        self,
        *,
        kernel_id: str | None = None,
        gpu: str | None = None,
        reason: Reason | None = None,
        events: Iterable[Event] = (),
        owner: str | None = None,
        whose: str | None = None,
        label: str | None = None,
        mechanism: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> tuple[list[Transition], str | None]:
        """Newest first. `after` is the cursor of a former call; the second value is the next one, None at the end.

        `whose` gives that owner's rows and those without an owner. Raises `BadCursor` for a cursor that is not one of
        ours, `LogUnavailable` when the database does not answer.
        """
        ...


class PressureBoard(Protocol):
    """What several servers on one machine tell each other about its GPUs. No call raises."""

    problem: str | None
    """Why this server works alone, as a sentence; None: all is well."""

    def waiting_elsewhere(self) -> Mapping[str, int]:
        """Bytes per GPU UUID that other servers' restores wait for; garbage is ignored. As long as a directory read."""
        ...

    def publish(self, waiting: Mapping[str, int], since: datetime | None) -> None:
        """What this server's restores wait for, in bytes per GPU UUID, and since when; {} withdraws it."""
        ...

    def claim(self, gpus: Collection[str]) -> AbstractAsyncContextManager[None]:
        """The lock of each of these GPUs, taken in one global order: while one server has it, another waits.

        Held around a fresh look at the free bytes, the move, and until the memory is taken.
        """
        ...


class LogUnavailable(Exception):
    """The log's database cannot be written or read now; the message says which and what to do."""


class BadCursor(ValueError):
    """A cursor that no query returned."""
