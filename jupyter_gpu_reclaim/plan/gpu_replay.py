"""One GPU's days in virtual time. Every rule is the product's: `decide()`, `advance()` and what rounds hand on.

What is modelled here is the world around them: cells come and end, moves take their time on a link that does one move
in each direction at once, and the loop looks when something wakes it or at the next tick after time alone may change
an answer. Between these nothing can change, so nobody is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

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
from jupyter_gpu_reclaim.plan.agenda import ARRIVAL, END, GONE, LOOK, MOVED, POLICY, SEEN, WHATEVER, Agenda
from jupyter_gpu_reclaim.plan.books import Books
from jupyter_gpu_reclaim.plan.costs import Machine
from jupyter_gpu_reclaim.plan.looks import Looks
from jupyter_gpu_reclaim.plan.moves import Moves
from jupyter_gpu_reclaim.plan.outside import NOTHING, Outside, end
from jupyter_gpu_reclaim.plan.seat import Seat, instant
from jupyter_gpu_reclaim.plan.tally import Tally
from jupyter_gpu_reclaim.plan.trace import SECOND, TraceKernel

Witness = Callable[[Snapshot, tuple[Decision, ...]], None]
ROOM_WAIT = 30 * SECOND
"""The product's `room_wait_seconds`: what waits longer is counted as an out of memory, and waits on."""
MOVING = "moving"
"""A wait's cause while the kernel's own bytes are on their way."""


class GpuReplay:
    """The kernels of one GPU over `span` microseconds. `witness` sees each round; `rows`, if given, each transition."""

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
        outside: Outside = NOTHING,
    ) -> None:
        self.uuid, self.span, self.machine = uuid, span, machine
        self.seats = [Seat(number, kernel, uuid) for number, kernel in enumerate(kernels)]
        self.tally = Tally(gpu_time=span)
        self._witness = witness
        self._agenda = Agenda(span, max(1, round(tick_seconds * SECOND)))
        self._by_name = {seat.trace.kernel_id: seat for seat in self.seats}
        self._live: dict[int, Seat] = {}  # those about which `decide()` may have something to say
        # Contexts count from the beginning, since a notebook may begin at any time.
        self._books = Books(self.tally, machine.context_bytes * len(kernels))
        self._ask = False  # something happened that the loop is woken by
        self._unsettled = False  # the last round left somebody waiting or put something off
        self._overtaken: Mapping[str, int] = {}
        self._short_since: Mapping[str, datetime] = {}
        self._moves = Moves(uuid, machine, policy, self.tally, rows, outside.before)
        self._looks = Looks(uuid, self._agenda, policy, span, round(machine.idle_seen_seconds * SECOND))
        self.policy, self._later = policy, outside.later
        outside.announce(self._agenda, self.seats)
        for seat in self.seats:
            seat.priority = priority_of(seat.holding(), policy)
            seat.seen = None
            if outside.begin_reclaimed:
                seat.begin_away()
                self._books.away += seat.footprint
            self._plan_cell(seat, 0)

    def run(self) -> Tally:
        """Replay it all. To be called once."""
        for now in self._agenda.instants():
            for kind, number, generation in self._agenda.due(now):
                self._happens(kind, number, generation, now)
            while self._ask:
                self._round(now)
            self._looks.for_headroom(now, self.machine.gpu_bytes - self._books.used, self._short_since)
        self._books.close(self.seats, self.span)
        return self.tally

    def _happens(self, kind: int, number: int, generation: int, now: int) -> None:
        if kind == POLICY:
            self._change_policy(self._later[number][1], now)
            return
        if number < 0:
            self._ask = self._ask or generation == WHATEVER or self._looks.is_common(now)
            return
        seat = self.seats[number]
        if seat.phase is Phase.GONE:
            return
        if kind == ARRIVAL:
            self._arrive(seat, now)
        elif kind == END:
            self._end(seat, now)
        elif kind == GONE:
            self._gone(seat, now)
        elif seat.generation != generation:
            return  # a move or a look that the kernel's next event has made void
        elif kind == LOOK:
            self._ask = True
        elif kind == SEEN:
            seat.count(now)
            seat.unseen = False
            self._ask = self._ask or self._unsettled
        else:
            self._moved(seat, now)

    def _change_policy(self, policy: Policy, now: int) -> None:
        self.policy = policy
        self._moves.adopt(policy)
        self._looks.adopt(policy)
        for seat in self._live.values():
            seat.look_at = now  # when each was to be looked at rests on the policy before
        self._ask = True

    def _gone(self, seat: Seat, now: int) -> None:
        end(seat, self._books, self._moves, now)
        self._live.pop(seat.number, None)
        self._ask = True

    # -- cells ------------------------------------------------------------------------------------------------------

    def _plan_cell(self, seat: Seat, now: int) -> int:
        """When the next comes; after the replay's end if there is none."""
        if seat.cell >= len(seat.trace.rests):
            return self.span + 1
        at = now + seat.trace.rests[seat.cell]
        self._agenda.add(at, ARRIVAL, seat.number)
        return at

    def _arrive(self, seat: Seat, now: int) -> None:
        seat.count(now)
        seat.generation += 1
        seat.arrived, seat.waited, seat.cause_since = now, 0, now
        seat.warned_at, seat.unseen = None, False
        self.tally.cells += 1
        if seat.phase is Phase.RECLAIMING:
            self._moves.cancel(seat, now)
            self._ask = True
        if seat.begun is None:
            seat.begun = seat.since = now
        self._live[seat.number] = seat
        if seat.phase is not Phase.RECLAIMED and not self.policy.max_running_per_gpu:
            self._begin(seat, now)
            return
        if seat.phase is Phase.RECLAIMED:
            seat.waiting_since = now
        else:
            seat.place_wanted = now
        self._books.wait(seat, Reason.QUEUED.value)
        self._ask = True

    def _begin(self, seat: Seat, now: int) -> None:
        """The cell goes ahead; where it needs more memory than the kernel holds, only once there is room."""
        seat.count(now)
        if seat.running_since is None:
            self._books.runs(now, +1)
            seat.running_since = now
        wants = seat.trace.held[seat.cell]
        if wants > seat.footprint:
            if seat.cause is None:
                self._books.waiting += 1
            seat.room_wanted, seat.room_since = wants - seat.footprint, now
            self._books.because(seat, Reason.ROOM.value, now)
            self._ask = True
            return
        if wants < seat.footprint:
            self._books.used -= seat.footprint - wants
            seat.footprint = wants
            self._agenda.look(now)
        self._work(seat, now)

    def _work(self, seat: Seat, now: int) -> None:
        self._books.no_longer(seat, now)
        if seat.waited:
            self.tally.waits.append(seat.waited)
        self._agenda.add(now + seat.trace.busy[seat.cell], END, seat.number)

    def _end(self, seat: Seat, now: int) -> None:
        seat.count(now)
        seat.running_since, seat.last_active = None, now
        self._books.runs(now, -1)
        seat.cell += 1
        seat.comes_at = self._plan_cell(seat, now)
        self._looks.after_cell(seat, now)
        if self._unsettled:
            # Time that has yet to pass is no reason to ask at once.
            if self._looks.at_once:
                self._ask = True
            elif not self._ask:
                self._plan_common_look(now)

    # -- moves ------------------------------------------------------------------------------------------------------

    def _start(self, seat: Seat, event: Event, reason: Reason, now: int) -> None:
        at = self._moves.start(seat, event, reason, now)
        seat.generation += 1
        self._agenda.add(at, MOVED, seat.number, seat.generation)

    def _moved(self, seat: Seat, now: int) -> None:
        size, leaves = seat.footprint, seat.phase is Phase.RECLAIMING
        self._moves.done(seat, now)
        self._books.moved(size, leaves)
        if leaves:
            self._live.pop(seat.number)
        else:
            seat.waiting_since = None
            self._begin(seat, now)
        self._ask = self._ask or self._unsettled

    # -- rounds -----------------------------------------------------------------------------------------------------

    def snapshot(self, now: int) -> Snapshot:
        """The GPU and those of its kernels about which there is something to decide."""
        gpu = Gpu(uuid=self.uuid, name="", total_bytes=self.machine.gpu_bytes, used_bytes=self._books.used)
        return Snapshot(
            taken_at=instant(now),
            gpus=(gpu,),
            holdings=tuple([seat.holding() for seat in self._live.values()]),
            host_available_bytes=max(0, self.machine.host_bytes - self._books.away),
        )

    def _round(self, now: int) -> None:
        self._ask = False
        self.tally.rounds += 1
        self._books.end_waits(self._live.values(), self._looks.limit, now)
        self._moves.track_residence(now)
        seen = self.snapshot(now)
        self._short_since = track_pressure(seen, self.policy, self._short_since)
        decisions = decide(seen, self.policy, self._short_since, self._overtaken, self._moves.residence)
        self._overtaken = track_overtaken(decisions, self._overtaken) if self._books.waiting else {}
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
            self._books.because(seat, decision.reason.value, now)
        elif isinstance(decision, Warn):
            seat.count(now)
            seat.warned_at = instant(now)
        elif isinstance(decision, Reclaim):
            self._start(seat, Event.RECLAIM_STARTED, decision.reason, now)
        elif isinstance(decision, Restore):
            self._books.because(seat, MOVING, now)
            self._start(seat, Event.RESTORE_STARTED, decision.reason, now)
        elif isinstance(decision, Admit):
            self._admit(seat, now)

    def _admit(self, seat: Seat, now: int) -> None:
        seat.count(now)
        if seat.place_wanted is not None:
            seat.place_wanted = None
            self._begin(seat, now)
            return
        self.tally.failed_allocations += now - seat.room_since > ROOM_WAIT
        self._books.used += seat.room_wanted
        seat.footprint += seat.room_wanted
        seat.room_wanted, seat.room_since = 0, 0
        self._work(seat, now)

    def _plan_look(self, now: int) -> None:
        """When time alone may change what this round has said."""
        if self._unsettled or self._moves.residence or self.policy.headroom_bytes:
            self._plan_common_look(now)
        else:
            self._looks.for_each(self._live.values(), now)

    def _plan_common_look(self, now: int) -> None:
        ends = self._moves.residence_may_end_at()
        self._looks.for_all(self._live.values(), now, self._short_since, self._moves.residence, ends)
