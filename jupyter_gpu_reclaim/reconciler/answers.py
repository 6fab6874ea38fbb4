"""What code that waits inside a kernel or at its gate is told: go ahead, or give up with one clear error."""

from __future__ import annotations

import asyncio
import logging

from jupyter_gpu_reclaim.core.explain import human_bytes, human_span
from jupyter_gpu_reclaim.core.model import Phase, Policy, Reason
from jupyter_gpu_reclaim.ports import KernelControl
from jupyter_gpu_reclaim.reconciler.memory import ADMITTED_FOR, KernelMemory
from jupyter_gpu_reclaim.reconciler.neighbours import Neighbours

logger = logging.getLogger(__name__)

_NO_ROOM = (
    "The GPU had no room for this notebook's data ({}) within {}. Nothing is lost: the data is safe in host memory. "
    "Free GPU memory, or wait until other notebooks are idle, and run the cell again."
)
_NO_PLACE = (
    "As many notebooks as may run at once on this GPU were running for {}. The cell has not run and nothing is lost: "
    "run it again when others have finished."
)


def given_up(memory: KernelMemory, policy: Policy) -> tuple[Reason, str]:
    """Why cells that have waited for `restore_timeout` are ended, and the sentence they end with."""
    span = human_span(policy.restore_timeout)
    if memory.phase is Phase.RESIDENT:
        return Reason.NO_PLACE, _NO_PLACE.format(span)
    return Reason.NO_ROOM, _NO_ROOM.format(human_bytes(sum(memory.needed.values())), span)


async def admit(memory: KernelMemory, kernels: KernelControl, neighbours: Neighbours) -> None:
    """Tell code that waits in the kernel to go ahead, if its room is still there, and hold that until it was taken."""
    need = memory.holding.room_wanted
    try:
        async with neighbours.claimed(need) as no_room:
            if no_room is not None:
                memory.admitted_at = None
                return
            await kernels.admit(memory.kernel_id)
            if need:
                async with asyncio.timeout(ADMITTED_FOR.total_seconds()):
                    await memory.went_ahead.wait()
    except TimeoutError:
        pass  # it still waits, or its agent is gone: the next look tells
    except Exception:
        logger.exception("Code that waits in kernel %s could not be admitted", memory.kernel_id)


async def end_wait(kernel_id: str, message: str, kernels: KernelControl) -> None:
    """End what waits at the kernel's gate with this message."""
    try:
        await kernels.end_wait(kernel_id, message)
    except Exception:
        logger.exception("The waiting cells of kernel %s could not be ended", kernel_id)
