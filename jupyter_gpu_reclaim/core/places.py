"""Running places: how many more kernels that hold memory on a GPU may run code at once (`max_running_per_gpu`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jupyter_gpu_reclaim.core.model import Holding, Phase, Policy, Snapshot


@dataclass(slots=True)
class Places:
    """Places per GPU while one round of decisions is made. Without a limit nobody lacks one."""

    free: dict[str, int]

    def lacks(self, gpus: Iterable[str]) -> bool:
        """Whether a kernel on these GPUs has to wait: it runs on all of them or not at all."""
        return any(self.free[uuid] < 1 for uuid in gpus if uuid in self.free)

    def take(self, gpus: Iterable[str]) -> None:
        """A kernel goes ahead, or the next free place is kept for one that waits."""
        for uuid in gpus:
            if uuid in self.free:
                self.free[uuid] -= 1


def count_places(snapshot: Snapshot, policy: Policy) -> Places:
    """The places there are before any decision. Kernels of other servers are not seen, and take none."""
    limit = policy.max_running_per_gpu
    if not limit:
        return Places({})
    places = Places({uuid: limit for holding in snapshot.holdings for uuid in holding.footprint})
    for holding in snapshot.holdings:
        if _runs(holding):
            places.take(places_of(holding))
    return places


def places_of(holding: Holding) -> tuple[str, ...]:
    """The GPUs on which the kernel takes a place when it runs."""
    return tuple(uuid for uuid, held in holding.footprint.items() if held > 0)


def _runs(holding: Holding) -> bool:
    if holding.phase is Phase.RESTORING:  # its cell may run before the end of the move has been taken in
        return holding.waiting > 0 or holding.running_since is not None
    return holding.phase is Phase.RESIDENT and (
        holding.running_since is not None or holding.admitted_at is not None
    )
