"""Whether anything goes on. While nothing does, the loop looks half as often: an idle machine should cost nothing."""

from __future__ import annotations

from collections.abc import Mapping

from jupyter_gpu_reclaim.core.model import Decision, Keep, Reason, Snapshot

LOOKS = 3
"""So many looks in a row have found everything as it was before the world counts as still."""
TICKS_A_LOOK = 2
"""In a still world there is one look in so many ticks. More would leave another server's pressure unseen for longer."""
_AT_WORK = frozenset({Reason.RUNNING, Reason.GPU_BUSY, Reason.IN_FLIGHT, Reason.TURN})


class Stillness:
    """Compares each look, and what was decided on it, with the one before."""

    def __init__(self) -> None:
        self._last: object = None
        self._looks = 0

    def see(self, snapshot: Snapshot, decisions: Mapping[str, Decision]) -> None:
        """Take in a look."""
        now = _what_must_stay(snapshot, decisions)
        self._looks = self._looks + 1 if now is not None and now == self._last else 0
        self._last = now

    @property
    def ticks_a_look(self) -> int:
        """1 while anything goes on."""
        return TICKS_A_LOOK if self._looks >= LOOKS else 1


def _what_must_stay(snapshot: Snapshot, decisions: Mapping[str, Decision]) -> object:
    """All that a still world has; None while somebody works, moves or waits, here or on the GPUs' other servers."""
    is_still = all(isinstance(made, Keep) and made.reason not in _AT_WORK for made in decisions.values())
    if not is_still or snapshot.outside_pressure:
        return None
    return dict(decisions), {gpu.uuid: gpu.used_bytes for gpu in snapshot.gpus or ()}
