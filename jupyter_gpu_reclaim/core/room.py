"""Arithmetic of room: what is free on each GPU and in host memory, and which kernels would make more of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jupyter_gpu_reclaim.core.model import Holding, Phase, Policy, Snapshot


@dataclass(slots=True)
class Room:
    """Bytes per GPU while one round of decisions is made. Lives inside one call of `decide()` and never leaves it."""

    total: Mapping[str, int]
    free: dict[str, int]  # measured free, less what restores under way or decided are still to take
    coming: dict[str, int]  # what reclaims under way or chosen will free
    reserved: dict[str, int]  # what earlier waiting restores will need
    host_bytes: int  # host memory that reclaims may still take
    spill_bytes: int  # disk that they may take besides

    def lacking_now(self, need: Mapping[str, int]) -> dict[str, int]:
        """{GPU: bytes short} for a restore that went ahead now, earlier ones' reservations honoured."""
        return _positive({uuid: n - self.free[uuid] + self.reserved[uuid] for uuid, n in need.items()})

    def lacking_soon(self, need: Mapping[str, int]) -> dict[str, int]:
        """As `lacking_now`, once every reclaim under way or chosen has freed its bytes."""
        return {
            uuid: gap - self.coming[uuid]
            for uuid, gap in self.lacking_now(need).items()
            if gap > self.coming[uuid]
        }

    def short_of(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """{GPU: bytes short} of a free amount, reclaims counted as done and reservations left aside."""
        return _positive({uuid: n - self.free[uuid] - self.coming[uuid] for uuid, n in wanted.items()})

    def take(self, need: Mapping[str, int]) -> None:
        """A restore goes ahead. GPUs that are not observed have no account."""
        _add(self.free, need, -1)

    def reserve(self, need: Mapping[str, int]) -> None:
        """A restore waits: nobody behind it may take these bytes."""
        _add(self.reserved, need)

    @property
    def bytes_for_reclaims(self) -> int:
        """What reclaims may still take, in host memory and on disk."""
        return self.host_bytes + self.spill_bytes

    def expect(self, holding: Holding) -> int:
        """A kernel was chosen for reclaim: its bytes will be free. How many of them have to lie on disk."""
        _add(self.coming, holding.footprint)
        in_memory = min(holding.host_bytes_to_take, self.host_bytes)
        on_disk = holding.host_bytes_to_take - in_memory
        self.host_bytes -= in_memory
        self.spill_bytes -= on_disk
        return on_disk


def survey(snapshot: Snapshot, policy: Policy) -> Room:
    """The room there is before any decision, moves under way counted.

    Host memory counts a reclaim under way as if none of its bytes had been copied yet: too careful by some bytes for
    some seconds, where the other error would bring the machine's out-of-memory killer. Unknown host memory is none.
    """
    gpus = snapshot.gpus or ()
    host = snapshot.host_available_bytes
    room = Room(
        total={gpu.uuid: gpu.total_bytes for gpu in gpus},
        free={gpu.uuid: gpu.free_bytes for gpu in gpus},
        coming={gpu.uuid: 0 for gpu in gpus},
        reserved={gpu.uuid: 0 for gpu in gpus},
        host_bytes=0 if host is None else max(0, host - policy.host_reserve_bytes),
        spill_bytes=max(0, policy.spill_limit_bytes - sum(h.spilled_bytes for h in snapshot.holdings)),
    )
    for holding in snapshot.holdings:
        if holding.phase is Phase.RECLAIMING:
            room.expect(holding)
        elif holding.phase is Phase.RESTORING:
            room.take(still_to_come(holding))
        elif holding.admitted_at is not None:
            room.take(holding.room_wanted)
    return room


def still_to_come(holding: Holding) -> dict[str, int]:
    """{GPU: bytes} that a restore under way has yet to take, from its progress; all of them while that is unknown."""
    total, moved = holding.move_total_bytes, holding.moved_bytes
    if not total or moved is None:
        return dict(holding.footprint)
    left = max(0, total - moved)
    return {uuid: -(-n * left // total) for uuid, n in holding.footprint.items()}


def smallest_set(
    gap: Mapping[str, int], ranked: Iterable[Holding], bytes_for_reclaims: int
) -> tuple[list[Holding], dict[str, int]]:
    """Kernels whose bytes fill `gap`, and what they leave of it: take in rank order until it is full, then give back.

    Given back, last taken first, is every kernel without which the gap stays as full as it was: no member of the
    result can be left out. Kernels that together would take more than `bytes_for_reclaims` are passed over. (The set
    with the fewest kernels would be a knapsack, and nobody could explain to its owner why it was that one.)
    """
    left = dict(gap)
    chosen: list[Holding] = []
    for holding in ranked:
        if all(n <= 0 for n in left.values()):
            break
        if holding.host_bytes_to_take > bytes_for_reclaims:
            continue
        if any(left.get(uuid, 0) > 0 and n > 0 for uuid, n in holding.footprint.items()):
            chosen.append(holding)
            bytes_for_reclaims -= holding.host_bytes_to_take
            _add(left, holding.footprint, -1)
    for holding in reversed(chosen.copy()):
        given = {uuid: n for uuid, n in holding.footprint.items() if uuid in left and n > 0}
        if all(left[uuid] + n <= 0 for uuid, n in given.items()):
            chosen.remove(holding)
            _add(left, given)
    return chosen, _positive(left)


def _positive(amounts: Mapping[str, int]) -> dict[str, int]:
    return {uuid: n for uuid, n in amounts.items() if n > 0}


def _add(account: dict[str, int], amounts: Mapping[str, int], sign: int = 1) -> None:
    for uuid, n in amounts.items():
        if uuid in account:
            account[uuid] += sign * n
