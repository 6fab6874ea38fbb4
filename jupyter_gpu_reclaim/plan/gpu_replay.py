"""One GPU's days in virtual time. Every rule is the product's: `decide()`, `advance()` and what rounds hand on.

What is modelled here is the world around them: cells come and end, moves take their time on a link that does one move
in each direction at once, and the loop looks when something wakes it or at the next tick after time alone may change
an answer. Between these nothing can change, so nobody is asked.
"""

# Over 300 lines: what one event leads to is told in one place.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from heapq import heappop, heappush
from itertools import count

from jupyter_gpu_reclaim.core.admission import track_overtaken
from jupyter_gpu_reclaim.core.model import (
    Admit,
    Decision,
    Event,
    Gpu,
    Keep,
    Phase,
    Policy,
    Reason,
    Reclaim,
    Restore,
    Snapshot,
    Transition,
    Wait,
    Warn,
)
from jupyter_gpu_reclaim.core.policy import decide
from jupyter_gpu_reclaim.core.pressure import track_pressure
from jupyter_gpu_reclaim.core.priorities import priority_of
from jupyter_gpu_reclaim.plan import looks
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.moves import Moves
from jupyter_gpu_reclaim.plan.seat import Seat, State, instant
from jupyter_gpu_reclaim.plan.tally import Tally
from jupyter_gpu_reclaim.plan.trace import SECOND, TraceKernel

Witness = Callable[[Snapshot, tuple[Decision, ...]], None]
ROOM_WAIT = 30 * SECOND
"""The product's `room_wait_seconds`: what waits longer is counted as an out of memory, and waits on."""
MOVING = "moving"
"""A wait's cause while the kernel's own bytes are on their way."""
_ARRIVAL, _END, _MOVED, _LOOK, _POLICY, _GONE = range(6)
NEVER_ENDS: Mapping[str, int] = {}


class GpuReplay:
    """The kernels of one GPU over `span` microseconds. `witness` sees each round; `rows`, if given, each transition.

    `later` are policies that take the first one's place, each from its instant on; `ends` says when kernels end, by id.
    """

    def __init__(
        self,
        uuid: str,
        kernels: list[TraceKernel],
        span: int,
        policy: Policy,
        machine: Machine,
        tick_seconds: float,
        witness: Witness | None = None,
        rows: list[Transition] | None = None,
        begin_reclaimed: bool = False,
        later: Sequence[tuple[int, Policy]] = (),
        ends: Mapping[str, int] = NEVER_ENDS,
    ) -> None:
        self.uuid, self.span, self.machine = uuid, span, machine
        self.tick = max(1, round(tick_seconds * SECOND))
        self.seats = [Seat(number, kernel, uuid) for number, kernel in enumerate(kernels)]
        self.tally = Tally(gpu_time=span)
        self._witness = witness
        self._events: list[tuple[int, int, int, int, int]] = []  # at, serial, kind, seat, generation
        self._serial = count()
        self._by_name = {seat.trace.kernel_id: seat for seat in self.seats}
        self._live: dict[int, Seat] = {}  # those about which `decide()` may have something to say
        self._waiting = 0
        self._running, self._running_since = 0, 0
        # On the GPU and in host memory. Contexts count from the beginning, since a notebook may begin at any time.
        self._used, self._away = machine.context_bytes * len(kernels), 0
        self._look_at: int | None = None
        self._ask = False  # something happened that the loop is woken by
        self._unsettled = False  # the last round left somebody waiting or put something off
        self._overtaken: Mapping[str, int] = {}
        self._short_since: Mapping[str, datetime] = {}
        self._moves = Moves(uuid, machine, policy, self.tally, rows)
        self._adopt(policy)
        self._later = later
        for number, (at, _) in enumerate(later):
            self._push(at, _POLICY, number)
        for seat in self.seats:
            if seat.trace.kernel_id in ends:
                self._push(ends[seat.trace.kernel_id], _GONE, seat.number)
            seat.priority = priority_of(seat.holding(), policy)
            seat.seen = None
            if begin_reclaimed:
                seat.phase, seat.phase_since, seat.begun = Phase.RECLAIMED, 0, 0
                seat.footprint = kernels[seat.number].held[0]
                self._away += seat.footprint
            self._plan_cell(seat, 0)

    def run(self) -> Tally:
        """Replay it all. To be called once."""
        events, seats = self._events, self.seats
        while events and events[0][0] < self.span:
            now = events[0][0]
            while events and events[0][0] == now:
                _, _, kind, number, generation = heappop(events)
                if kind == _POLICY:
                    self._change_policy(self._later[number][1], now)
                elif number >= 0 and seats[number].phase is Phase.GONE:
                    continue
                elif kind == _GONE:
                    self._gone(seats[number], now)
                elif kind == _ARRIVAL:
                    self._arrive(seats[number], now)
                elif kind == _END:
                    self._end(seats[number], now)
                elif kind == _LOOK:
                    stale = now != self._look_at if number < 0 else seats[number].generation != generation
                    self._ask = self._ask or not stale
                elif seats[number].generation == generation:
                    self._moved(seats[number], now)
            while self._ask:
                self._round(now)
        self._close()
        return self.tally

    def _push(self, at: int, kind: int, number: int, generation: int = 0) -> None:
        heappush(self._events, (at, next(self._serial), kind, number, generation))

    def _next_tick(self, at: int) -> int:
        return -(-at // self.tick) * self.tick

    # -- what comes from outside: another policy, a kernel's end ----------------------------------------------------

    def _adopt(self, policy: Policy) -> None:
        self.policy = policy
        first = looks.first_look(self.uuid, policy)
        self._first_look = self.span if first is None else first
        self._limit = round(policy.restore_timeout.total_seconds() * SECOND)
        self._quick = round(policy.pressure_idle_after.total_seconds() * SECOND)
        self._at_once = bool(policy.max_running_per_gpu or not self._quick or not policy.idle_after)

    def _change_policy(self, policy: Policy, now: int) -> None:
        self._adopt(policy)
        self._moves.adopt(policy)
        for seat in self._live.values():
            seat.look_at = now  # when each was to be looked at rests on the policy before
        self._ask = True

    def _gone(self, seat: Seat, now: int) -> None:
        """Its memory is free, wherever it was; a cell that waited has waited until now."""
        if seat.running_since is not None:
            self._count_running(now, -1)
        if seat.cause is not None:
            self._because(seat, None, now)
            self._waiting -= 1
            self.tally.waits.append(seat.waited)
        if seat.phase in (Phase.RESIDENT, Phase.RECLAIMING):
            self._used -= seat.footprint
        else:
            self._away -= seat.footprint
        self._moves.happened(seat, Event.KERNEL_GONE, now)
        seat.begun = seat.running_since = seat.waiting_since = seat.place_wanted = None
        seat.footprint = seat.room_wanted = 0
        self._live.pop(seat.number, None)
        self._ask = True

    # -- cells ------------------------------------------------------------------------------------------------------

    def _plan_cell(self, seat: Seat, now: int) -> int:
        """When the next comes; after the replay's end if there is none."""
        if seat.cell >= len(seat.trace.rests):
            return self.span + 1
        at = now + seat.trace.rests[seat.cell]
        self._push(at, _ARRIVAL, seat.number)
        return at

    def _arrive(self, seat: Seat, now: int) -> None:
        seat.count(now)
        seat.generation += 1
        seat.arrived, seat.waited, seat.cause_since = now, 0, now
        seat.warned_at = None
        self.tally.cells += 1
        if seat.phase is Phase.RECLAIMING:
            self._cancel(seat, now)
        if seat.begun is None:
            seat.begun = seat.since = now
        self._live[seat.number] = seat
        if seat.phase is Phase.RECLAIMED:
            seat.waiting_since = now
            self._wait(seat, Reason.QUEUED.value)
        elif self.policy.max_running_per_gpu:
            seat.place_wanted = now
            self._wait(seat, Reason.QUEUED.value)
        else:
            self._begin(seat, now)

    def _wait(self, seat: Seat, cause: str) -> None:
        seat.cause = cause
        self._waiting += 1
        self._ask = True

    def _because(self, seat: Seat, cause: str | None, now: int) -> None:
        """What it waits for from now on; None: nothing any more."""
        if seat.cause is not None:
            span = now - seat.cause_since
            if span:
                self.tally.waited[seat.cause] += span
                seat.waited += span
        seat.cause, seat.cause_since = cause, now

    def _begin(self, seat: Seat, now: int) -> None:
        """The cell goes ahead; where it needs more memory than the kernel holds, only once there is room."""
        seat.count(now)
        if seat.running_since is None:
            self._count_running(now, +1)
            seat.running_since = now
        wants = seat.trace.held[seat.cell]
        if wants > seat.footprint:
            if seat.cause is None:
                self._waiting += 1
            seat.room_wanted, seat.room_since = wants - seat.footprint, now
            self._because(seat, Reason.ROOM.value, now)
            self._ask = True
            return
        self._used -= seat.footprint - wants
        seat.footprint = wants
        self._work(seat, now)

    def _work(self, seat: Seat, now: int) -> None:
        if seat.cause is not None:
            self._because(seat, None, now)
            self._waiting -= 1
        if seat.waited:
            self.tally.waits.append(seat.waited)
        self._push(now + seat.trace.busy[seat.cell], _END, seat.number)

    def _end(self, seat: Seat, now: int) -> None:
        seat.count(now)
        seat.running_since, seat.last_active = None, now
        self._count_running(now, -1)
        seat.cell += 1
        seat.comes_at = self._plan_cell(seat, now)
        self._look_after(seat, now + self._first_look)
        if self._unsettled:
            # Time that has yet to pass is no reason to ask at once.
            if self._at_once:
                self._ask = True
            elif not self._ask:
                self._plan_common_look(now)

    def _look_after(self, seat: Seat, at: int) -> None:
        """Ask at the tick after `at`, unless the kernel's next cell comes before: then it is idle no more."""
        seat.look_at = min(self._next_tick(at), seat.comes_at)
        if seat.look_at < seat.comes_at:
            self._push(seat.look_at, _LOOK, seat.number, seat.generation)

    def _count_running(self, now: int, change: int) -> None:
        self.tally.running[self._running] += now - self._running_since
        self._running, self._running_since = self._running + change, now

    # -- moves ------------------------------------------------------------------------------------------------------

    def _start(self, seat: Seat, event: Event, reason: Reason, now: int) -> None:
        at = self._moves.start(seat, event, reason, now)
        seat.generation += 1
        self._push(at, _MOVED, seat.number, seat.generation)

    def _restore(self, seat: Seat, reason: Reason, now: int) -> None:
        self.tally.quick_returns += now - (seat.phase_since or 0) <= self._quick
        self._because(seat, MOVING, now)
        self._start(seat, Event.RESTORE_STARTED, reason, now)

    def _cancel(self, seat: Seat, now: int) -> None:
        """The agent rolls a reclaim back when code comes: nothing has been given up until its last step."""
        self._moves.happened(seat, Event.RECLAIM_REFUSED, now, Reason.CANCELLED)
        self.tally.cancelled += 1
        self._ask = True

    def _moved(self, seat: Seat, now: int) -> None:
        size, leaves = seat.footprint, seat.phase is Phase.RECLAIMING
        self._moves.done(seat, now)
        self._used -= size if leaves else -size
        self._away += size if leaves else -size
        if leaves:
            self._live.pop(seat.number)
        else:
            seat.waiting_since = None
            self._begin(seat, now)
        self._ask = self._ask or self._unsettled

    # -- rounds -----------------------------------------------------------------------------------------------------

    def snapshot(self, now: int) -> Snapshot:
        """The GPU and those of its kernels about which there is something to decide."""
        gpu = Gpu(uuid=self.uuid, name="", total_bytes=self.machine.gpu_bytes, used_bytes=self._used)
        return Snapshot(
            taken_at=instant(now),
            gpus=(gpu,),
            holdings=tuple([seat.holding() for seat in self._live.values()]),
            host_available_bytes=max(0, self.machine.host_bytes - self._away),
        )

    def _round(self, now: int) -> None:
        self._ask = False
        self.tally.rounds += 1
        self._end_waits(now)
        self._moves.track_residence(now)
        seen = self.snapshot(now)
        self._short_since = track_pressure(seen, self.policy, self._short_since)
        decisions = decide(seen, self.policy, self._short_since, self._overtaken, self._moves.residence)
        self._overtaken = track_overtaken(decisions, self._overtaken) if self._waiting else {}
        if self._witness is not None:
            self._witness(seen, decisions)
        self._unsettled = False
        for decision in decisions:
            self._act(decision, now)
        self._plan_look(now)

    def _act(self, decision: Decision, now: int) -> None:
        seat = self._by_name[decision.kernel_id]
        if isinstance(decision, Keep):
            self._unsettled = self._unsettled or decision.reason in (Reason.TURN, Reason.HOST_MEMORY)
        elif isinstance(decision, Wait):
            self._unsettled = True
            self._because(seat, decision.reason.value, now)
        elif isinstance(decision, Warn):
            seat.count(now)
            seat.warned_at = instant(now)
        elif isinstance(decision, Reclaim):
            self._start(seat, Event.RECLAIM_STARTED, decision.reason, now)
        elif isinstance(decision, Restore):
            self._restore(seat, decision.reason, now)
        elif isinstance(decision, Admit):
            self._admit(seat, now)

    def _admit(self, seat: Seat, now: int) -> None:
        seat.count(now)
        if seat.place_wanted is not None:
            seat.place_wanted = None
            self._begin(seat, now)
            return
        self.tally.failed_allocations += now - seat.room_since > ROOM_WAIT
        self._used += seat.room_wanted
        seat.footprint += seat.room_wanted
        seat.room_wanted, seat.room_since = 0, 0
        self._work(seat, now)

    def _end_waits(self, now: int) -> None:
        """What has waited for `restore_timeout` fails; its user runs the cell again at once, at the end of the line."""
        if not self._limit or not self._waiting:
            return
        for seat in self._live.values():
            since = looks.waits_at_gate_since(seat)
            if since is None or now - since < self._limit:
                continue
            seat.count(now)
            if seat.phase is Phase.RECLAIMED:
                seat.waiting_since = now
            else:
                seat.place_wanted = now
            self.tally.ended_waits += 1

    def _plan_look(self, now: int) -> None:
        """When time alone may change what this round has said."""
        if self._unsettled or self._moves.residence or self.policy.headroom_bytes:
            self._plan_common_look(now)
            return
        # With nobody short of room no kernel's time depends on another's.
        for seat in self._live.values():
            if seat.look_at <= now and seat.running_since is None and seat.phase is Phase.RESIDENT:
                at = looks.of_one(seat, self.policy, now)
                if at is not None:
                    self._look_after(seat, at)

    def _plan_common_look(self, now: int) -> None:
        live, residence = self._live.values(), self._moves.residence
        due = looks.of_all(live, self.policy, now, self._short_since, residence)
        if (at := self._moves.residence_may_end_at()) is not None:
            due.append(at)
        due = [self._next_tick(at) for at in due]
        if self._waiting:
            due += looks.waits_end(live, self._limit)  # the loop wakes for these
        self._look_at = min(due, default=None)
        if self._look_at is not None:
            self._push(self._look_at, _LOOK, -1)

    def _close(self) -> None:
        for seat in self.seats:
            seat.count(self.span)
            if seat.waits or seat.phase is Phase.RESTORING:
                self._because(seat, None, self.span)
                self.tally.waits.append(seat.waited)  # at least so long
            for state in State:
                self.tally.time[state] += seat.time[state]
                self.tally.byte_time[state] += seat.byte_time[state]
        self._count_running(self.span, 0)
        self.tally.cells_late = sum(len(seat.trace.rests) for seat in self.seats) - self.tally.cells
