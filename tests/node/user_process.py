"""Functions run in processes that belong to other Unix users, all seeing one simulated GPU."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 (what is imported late may be out of the users' reach)
import os
from collections.abc import Callable
from typing import Any

from simgpu import SimProcess

from jupyter_gpu_reclaim.sim.board import Board


class UserProcess(SimProcess):
    """As `SimProcess`, with the process given away to the user before `function(channel, *args)` is called."""

    def __init__(self, board: Board, uid: int, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(board, _as_user, uid, function, args)


def _as_user(channel: Any, uid: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    return function(channel, *args)
