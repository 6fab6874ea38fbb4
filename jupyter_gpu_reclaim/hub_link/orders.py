"""What administrators want of this server's kernels: done as if its user had asked, answered, and shown to the user."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime
from typing import Any

from jupyter_gpu_reclaim.core.explain import SENTENCES
from jupyter_gpu_reclaim.core.model import Reason, Reclaim
from jupyter_gpu_reclaim.core.wire import from_json
from jupyter_gpu_reclaim.reconciler import InvalidPin, NotObserved, Reconciler, UnknownKernel

ANSWER_SECONDS = 30.0
SHOWN = 20


class Orders:
    """Each order is carried out once, however often it comes. They go the way of every wish: never over work."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._answers: dict[str, str] = {}
        self.shown: deque[dict[str, Any]] = deque(maxlen=SHOWN)
        """The last ones, each with its answer, for the user to see."""

    async def answer(self, order: dict[str, Any]) -> str:
        """Carry it out and say what came of it, in a sentence."""
        if order["id"] not in self._answers:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    answer = await self._carry_out(order)
            except TimeoutError:
                answer = "The server has not decided in time; nothing was changed."
            except (UnknownKernel, NotObserved, InvalidPin, ValueError) as error:
                answer = str(error)
            self._answers[order["id"]] = answer
            self.shown.append({**order, "answer": answer})
            while len(self._answers) > 1000:
                del self._answers[next(iter(self._answers))]
        return self._answers[order["id"]]

    async def _carry_out(self, order: dict[str, Any]) -> str:
        kernel_id, actor = order["kernel_id"], order["actor"]
        if order["act"] == "reclaim":
            decision = await self._reconciler.wish_reclaim(kernel_id, actor)
            if isinstance(decision, Reclaim):
                return "It is being done."
            return SENTENCES[Reason(decision.reason)]
        if order["act"] == "pin":
            await self._reconciler.pin(kernel_id, from_json(datetime, order["until"]), actor)
            return "It stays on the GPU until then."
        if order["act"] == "unpin":
            await self._reconciler.unpin(kernel_id, actor)
            return "It is no longer kept on the GPU."
        raise ValueError(f"This server does not know how to {order['act']}; upgrade jupyter_gpu_reclaim.")
