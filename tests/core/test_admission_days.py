"""Round after round of `decide()` on several GPUs: everybody is served, nobody is given what is not there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import GIB, MINUTE, NOW, gpu, idle_kernel, world

from jupyter_gpu_reclaim.core.admission import OVERTAKEN_AT_MOST, track_overtaken
from jupyter_gpu_reclaim.core.model import Admit, Holding, Phase, Policy, Reclaim, Restore
from jupyter_gpu_reclaim.core.policy import decide

UUIDS = ("g0", "g1", "g2")
ROUNDS = 300


@dataclass
class Person:
    """Runs so many cells in one kernel: a cell comes, waits for whatever it needs, works for some rounds, ends."""

    holding: Holding
    cells: int
    rounds_of_work: int
    comes_at: int
    works_until: int | None = None


people = st.tuples(
    st.dictionaries(st.sampled_from(UUIDS), st.integers(1, 16), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 5),
)


def cell_comes(person: Person, turn: int, limited: bool) -> None:
    """User code reaches the gate: it runs, or waits for data or for a place."""
    now, holding = NOW + turn * MINUTE, person.holding
    if holding.phase is Phase.RECLAIMED:
        person.holding = replace(holding, waiting=1, restore_wanted_at=now)
    elif limited:
        person.holding = replace(holding, place_wanted_at=now)
    else:
        begin(person, turn)


def begin(person: Person, turn: int) -> None:
    """The cell runs."""
    person.works_until = turn + person.rounds_of_work
    person.holding = replace(
        person.holding, phase=Phase.RESIDENT, running_since=NOW + turn * MINUTE, waiting=0,
        restore_wanted_at=None, place_wanted_at=None,
    )  # fmt: skip


def end(person: Person, turn: int) -> None:
    """The cell is over, and the next comes a round later, if there is one."""
    person.works_until, person.cells, person.comes_at = None, person.cells - 1, turn + 1
    person.holding = replace(person.holding, running_since=None, last_active_at=NOW + turn * MINUTE)


@settings(max_examples=120)
@given(st.lists(people, min_size=2, max_size=7), st.sampled_from([0, 1, 2]), st.integers(1, 2))
def test_everybody_is_served_on_several_gpus(wanted, places, max_in_flight):
    """Kernels that need the same GPUs in whatever combination all run all their cells, with and without places."""
    policy = Policy(
        pressure_idle_after=MINUTE, cooldown=0 * MINUTE, max_in_flight=max_in_flight,
        max_running_per_gpu=places,
    )  # fmt: skip
    crowd = {
        f"k{i}": Person(
            idle_kernel(f"k{i}", footprint={u: n * GIB for u, n in gib.items()}, phase=Phase.RECLAIMED),
            cells, work, comes,
        )
        for i, (gib, cells, work, comes) in enumerate(wanted)
    }  # fmt: skip
    overtaken: dict[str, int] = {}
    for turn in range(ROUNDS):
        for person in crowd.values():
            if person.works_until == turn:
                end(person, turn)
            if person.works_until is None and person.cells and person.comes_at == turn:
                cell_comes(person, turn, places > 0)
        here = [p.holding for p in crowd.values() if p.holding.phase is Phase.RESIDENT]
        used = {uuid: sum(h.footprint.get(uuid, 0) for h in here) // GIB for uuid in UUIDS}
        assert max(used.values()) <= 16
        running = [h for h in here if h.running_since]
        for uuid in UUIDS if places else ():
            assert sum(uuid in h.footprint for h in running) <= places
        seen = world(
            *(p.holding for p in crowd.values()),
            gpus=tuple(gpu(u, free=16 - used[u]) for u in UUIDS),
            host=999,
        )
        decisions = decide(replace(seen, taken_at=NOW + turn * MINUTE), policy, {}, overtaken)
        overtaken = track_overtaken(decisions, overtaken)
        assert max(overtaken.values(), default=0) <= OVERTAKEN_AT_MOST
        for decision in decisions:
            person = crowd[decision.kernel_id]
            if isinstance(decision, Reclaim):
                person.holding = replace(person.holding, phase=Phase.RECLAIMED)
            elif isinstance(decision, Restore | Admit):
                begin(person, turn)
        if not any(person.cells for person in crowd.values()):
            return
    raise AssertionError(f"still waiting: {[p.holding for p in crowd.values() if p.cells]}")
