"""Wishes of persons and services. They change nothing by themselves: the next tick decides, and answers who asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from jupyter_gpu_reclaim.core.model import Decision, Holding, Keep, Policy, Reason, Reclaim, Restore, Wait


class UnknownKernel(LookupError):
    """No kernel of this id was seen."""


class NotObserved(RuntimeError):
    """The kernels could not be looked at, or the loop is not running; nothing was changed. Ask again later."""


class InvalidPin(ValueError):
    """A pin that ends in the past, or later than the policy allows; the message says which."""


class Act(Enum):
    """What may be wished for."""

    RECLAIM = "reclaim"
    RESTORE = "restore"
    PREFETCH = "prefetch"  # a restore, if it costs nobody anything


@dataclass(slots=True)
class Wish:
    """One kernel's wish. A newer one takes its place, and its answer goes to all who asked."""

    act: Act
    at: datetime
    actor: str
    asking: list[asyncio.Future] = field(default_factory=list)

    def overlaid(self, holding: Holding) -> Holding:
        """The holding with this wish in it. Code that already waits for a restore has asked first."""
        if self.act is Act.RECLAIM:
            return replace(holding, reclaim_wanted_at=self.at)
        if self.act is Act.PREFETCH:
            return replace(holding, prefetch_wanted_at=self.at)
        earlier = holding.restore_wanted_at
        return replace(holding, restore_wanted_at=self.at if earlier is None else min(self.at, earlier))

    def answer(self, decision: Decision) -> None:
        """Tell who asked."""
        for future in self.asking:
            if not future.done():
                future.set_result(decision)
        self.asking.clear()

    def refuse(self, error: Exception) -> None:
        """Tell who asked that there is no answer."""
        for future in self.asking:
            if not future.done():
                future.set_exception(error)
        self.asking.clear()

    def lives_on(self, decision: Decision) -> bool:
        """Whether the wish stays for later ticks: only in its turn, or while its restore waits or is tried."""
        if self.act is Act.PREFETCH:
            return False  # whoever comes back asks again, or a cell does
        if self.act is Act.RECLAIM:
            return decision == Keep(decision.kernel_id, Reason.TURN)
        return isinstance(decision, Wait | Restore) or decision == Keep(decision.kernel_id, Reason.IN_FLIGHT)


class Wishes:
    """The wishes not yet fulfilled or refused, by kernel."""

    def __init__(self) -> None:
        self._by_kernel: dict[str, Wish] = {}

    def add(self, kernel_id: str, act: Act, at: datetime, actor: str) -> asyncio.Future:
        """A wish; the future gets the decision of the tick that considers it."""
        future = asyncio.get_running_loop().create_future()
        before = self._by_kernel.get(kernel_id)
        weaker = act is Act.PREFETCH and before is not None and before.act is Act.RESTORE
        if before is not None and (before.act is act or weaker):
            before.asking.append(future)
        else:
            self._by_kernel[kernel_id] = Wish(act, at, actor, [*(before.asking if before else ()), future])
        return future

    def standing(self) -> Mapping[str, Wish]:
        """The wishes now, for one tick to consider; later ones are the next tick's."""
        return dict(self._by_kernel)

    def drop(self, kernel_id: str, wish: Wish) -> None:
        """Take this wish away, but not a newer one that came in its place."""
        if self._by_kernel.get(kernel_id) is wish:
            del self._by_kernel[kernel_id]

    def answer(self, kernel_id: str, wish: Wish, decision: Decision | None, policy: Policy) -> None:
        """Tell who asked what this tick decided; None: there is no such kernel. In a dry run nothing is reclaimed."""
        if decision is None:
            self.drop(kernel_id, wish)
            wish.refuse(UnknownKernel(f"There is no kernel {kernel_id}."))
            return
        if isinstance(decision, Reclaim) and policy.mode == "dry_run":
            decision = Keep(kernel_id, Reason.DRY_RUN)
        if not wish.lives_on(decision):
            self.drop(kernel_id, wish)
        wish.answer(decision)

    def refuse_unanswered(self, wishes: Mapping[str, Wish], why: str) -> None:
        """After a look or a tick that failed nobody is left waiting. (Wishes that were answered have no one asking.)"""
        for kernel_id, wish in wishes.items():
            if wish.asking:
                self.drop(kernel_id, wish)
                wish.refuse(NotObserved(f"{why} Nothing was changed; try again."))

    def refuse_all(self, error: Exception) -> None:
        """No tick will answer: tell everybody who asked, and forget the wishes."""
        for wish in self._by_kernel.values():
            wish.refuse(error)
        self._by_kernel.clear()


def check_pin(until: datetime, policy: Policy, now: datetime) -> None:
    """Raises `InvalidPin` unless `until` is an aware instant from now to `max_pin` from now."""
    if until.tzinfo is None:
        raise InvalidPin("The end of a pin needs a time zone.")
    if until <= now:
        raise InvalidPin("The end of a pin must lie in the future.")
    if until - now > policy.max_pin:
        hours = policy.max_pin.total_seconds() / 3600
        raise InvalidPin(f"A pin may last {hours:g} hours at most (max_pin_seconds); choose an earlier end.")
