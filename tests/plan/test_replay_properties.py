"""Whatever people do, a replay conserves time and bytes, keeps each kernel in one place, and repeats itself."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jupyter_gpu_reclaim.core.model import Phase, Policy, Transition
from jupyter_gpu_reclaim.core.phase import advance
from jupyter_gpu_reclaim.plan.costs import GIB, Machine
from jupyter_gpu_reclaim.plan.gpu_replay import GpuReplay
from jupyter_gpu_reclaim.plan.homes import placed
from jupyter_gpu_reclaim.plan.outside import Outside
from jupyter_gpu_reclaim.plan.replay import replay
from jupyter_gpu_reclaim.plan.seat import State, instant, microseconds
from jupyter_gpu_reclaim.plan.tally import Tally
from jupyter_gpu_reclaim.plan.trace import SECOND, Trace, TraceKernel

SPAN = 3 * 3600 * SECOND
MACHINE = Machine(
    gpu_bytes=16 * GIB, host_bytes=40 * GIB, context_bytes=GIB // 4, offload_speed=1e9, onload_speed=2e9
)

cells = st.lists(
    st.tuples(
        st.integers(0, 3000 * SECOND),
        st.integers(0, 900 * SECOND),
        st.integers(0, 20).map(lambda n: n * GIB // 2),
    ),
    min_size=1,
    max_size=8,
)
policies = st.builds(
    Policy,
    idle_after=st.sampled_from([timedelta(0), timedelta(minutes=1), timedelta(minutes=20)]),
    pressure_idle_after=st.sampled_from([timedelta(0), timedelta(seconds=30), timedelta(minutes=2)]),
    warn_before=st.sampled_from([timedelta(0), timedelta(minutes=1)]),
    cooldown=st.sampled_from([timedelta(0), timedelta(minutes=1)]),
    headroom_bytes=st.sampled_from([0, 4 * GIB]),
    max_running_per_gpu=st.sampled_from([0, 1, 2]),
    restore_timeout=st.sampled_from([timedelta(0), timedelta(minutes=2)]),
)


def team(wanted: list) -> Trace:
    """A trace of these kernels' cells."""
    kernels = []
    for number, own in enumerate(wanted):
        kernel = TraceKernel(f"k{number}", "ada", f"k{number}.ipynb")
        for rest, busy, held in own:
            kernel.add(rest, busy, held)
        kernels.append(kernel)
    return Trace(tuple(kernels), SPAN)


def content(tally: Tally) -> dict:
    """Everything in it."""
    return {name: getattr(tally, name) for name in Tally.__slots__}


@settings(max_examples=60, deadline=None)
@given(st.lists(cells, min_size=1, max_size=6), policies, st.integers(1, 2))
def test_time_and_bytes_are_conserved(wanted, policy, gpus):
    """Each kernel is in one state all the time, its bytes are where the rows say, and no GPU holds more than it has."""
    trace, rows = team(wanted), []

    def witness(seen, decisions):
        (gpu,) = seen.gpus
        assert gpu.used_bytes <= gpu.total_bytes
        assert len({h.kernel_id for h in seen.holdings}) == len(seen.holdings) == len(decisions)

    tally = replay(trace, gpus, policy, MACHINE, witness=witness, rows=rows)
    arrivals = {k.kernel_id: k.rests[0] for k in trace.kernels if k.rests[0] < SPAN}
    assert sum(tally.time) == sum(SPAN - at for at in arrivals.values())
    assert sum(tally.running.values()) == tally.gpu_time == gpus * SPAN
    assert sum(number * time for number, time in tally.running.items()) >= tally.time[State.RUNNING]
    assert sum(tally.waited.values()) == sum(tally.waits)
    assert tally.cells + tally.cells_late == trace.cells
    assert tally.byte_time[State.RECLAIMED] + tally.byte_time[State.RESTORING] == away(rows)
    assert tally.moved_bytes == sum(row.moved_bytes or 0 for row in rows)
    assert legal(rows)


def away(rows: list[Transition]) -> int:
    """Bytes × time in host memory, from the rows alone."""
    since, total = {}, 0
    for row in rows:
        at, size = microseconds(row.at), sum(row.footprint.values())
        if row.event == "reclaim_done":
            since[row.kernel_id] = (at, size)
        elif row.event == "restore_done":
            began, size = since.pop(row.kernel_id)
            total += (at - began) * size
    return total + sum((SPAN - began) * size for began, size in since.values())


def legal(rows: list[Transition]) -> bool:
    """Whether each kernel's rows lead it from phase to phase as the product's table allows, on one GPU."""
    phases, homes = {}, {}
    for row in rows:
        phases[row.kernel_id] = advance(phases.get(row.kernel_id, Phase.RESIDENT), row.event)
        assert phases[row.kernel_id] is row.phase
        assert homes.setdefault(row.kernel_id, row.footprint.keys()) == row.footprint.keys()
    return True


@settings(max_examples=15, deadline=None)
@given(st.lists(cells, min_size=1, max_size=5), policies)
def test_equal_arguments_give_equal_replays(wanted, policy):
    """A replay has no chance in it, and looking on changes nothing."""
    plain = replay(team(wanted), 2, policy, MACHINE)
    watched = replay(team(wanted), 2, policy, MACHINE, witness=lambda *_: None, rows=[])
    assert content(plain) == content(watched)


@given(st.lists(cells, max_size=12), st.integers(1, 5), st.integers(0, 2))
def test_each_kernel_has_one_home(wanted, gpus, places):
    """Whatever the number of GPUs, every kernel is given to exactly one; with running places, in even numbers."""
    homes = placed(team(wanted).kernels, gpus, places)
    assert len(homes) == gpus
    assert not places or max(map(len, homes)) - min(map(len, homes)) <= 1
    assert sorted(k.kernel_id for home in homes for k in home) == sorted(f"k{n}" for n in range(len(wanted)))


def changing(trace: Trace, policy: Policy, later: list, ends: dict, witness=None, rows=None) -> Tally:
    """A replay on one GPU in which the policy changes and kernels end."""
    (home,) = placed(trace.kernels, 1)
    outside = Outside(later=later, ends=ends)
    return GpuReplay("GPU-0", home, SPAN, policy, MACHINE, 5.0, witness, rows, outside).run()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(cells, min_size=1, max_size=6),
    policies,
    st.lists(st.tuples(st.integers(0, SPAN), policies), max_size=3),
    st.dictionaries(st.integers(0, 5).map("k{}".format), st.integers(0, SPAN), max_size=4),
)
def test_what_ends_holds_nothing_any_more(wanted, policy, later, ends):
    """Whatever changes on the way, time and bytes are conserved, and a kernel counts until its end and no longer."""
    trace, rows = team(wanted), []

    def witness(seen, decisions):
        (gpu,) = seen.gpus
        held = sum(h.footprint_bytes for h in seen.holdings if h.phase in (Phase.RESIDENT, Phase.RECLAIMING))
        assert gpu.used_bytes == held + MACHINE.context_bytes * len(trace.kernels) <= gpu.total_bytes
        assert not {h.kernel_id for h in seen.holdings} & {
            k for k, at in ends.items() if instant(at) < seen.taken_at
        }

    tally = changing(trace, policy, sorted(later, key=lambda one: one[0]), ends, witness, rows)
    spans = [max(0, ends.get(k.kernel_id, SPAN) - k.rests[0]) for k in trace.kernels if k.rests[0] < SPAN]
    assert sum(tally.time) == sum(spans)
    assert sum(tally.running.values()) == SPAN
    assert sum(tally.waited.values()) == sum(tally.waits)
    assert legal(rows)


ROOM_AFTER_30 = Policy(
    idle_after=timedelta(minutes=1), warn_before=timedelta(0), pressure_idle_after=timedelta(seconds=30),
    cooldown=timedelta(0), restore_timeout=timedelta(0),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@example(  # the second kernel's second cell gives back what the third waits for
    [[(0, 0, 15 * GIB // 2)], [(0, 0, 8 * GIB), (0, 0, 0)], [(0, 0, 8 * GIB)]], ROOM_AFTER_30, 8
)
@given(st.lists(cells, min_size=1, max_size=5), policies, st.integers(0, SPAN // (5 * SECOND)))
def test_the_same_policy_again_changes_nothing(wanted, policy, tick):
    """A policy that takes its own place at any tick leaves every wait, move and byte as it was."""
    plain = content(changing(team(wanted), policy, [], {}))
    again = content(changing(team(wanted), policy, [(tick * 5 * SECOND, policy)], {}))
    assert {**plain, "rounds": 0} == {**again, "rounds": 0}
