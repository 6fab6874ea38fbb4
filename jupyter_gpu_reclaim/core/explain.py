"""A reason, said to a person. Every sentence is written here once; log, events, REST and sidebar all use it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

from jupyter_gpu_reclaim.core.eligibility import NO_LONGER, idle_for, reclaim_due_at
from jupyter_gpu_reclaim.core.model import (
    Decision,
    Holding,
    Phase,
    Policy,
    Reason,
    Reclaim,
    Restore,
    Wait,
    Warn,
)

SENTENCES: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.NO_GPU_MEMORY: "It holds no GPU memory.",
        Reason.RUNNING: "Code is running or queued.",
        Reason.RECENTLY_ACTIVE: "It was used a short while ago.",
        Reason.ACTIVITY_UNKNOWN: "It is not known when it was last used, so it is left alone.",
        Reason.BACKGROUND_WORK: "Work goes on in the background.",
        Reason.BACKGROUND_UNKNOWN: "Whether work goes on in the background is not known yet, so it is left alone.",
        Reason.GPU_BUSY: "The GPU is working for it.",
        Reason.GPU_UNKNOWN: "The GPU cannot be observed, so nothing is moved blindly.",
        Reason.PINNED: "Its user asked to keep it on the GPU.",
        Reason.COOLDOWN: "It came back to the GPU a moment ago and rests before it may be moved again.",
        Reason.TOO_SMALL: "It holds too little GPU memory to be worth moving.",
        Reason.HOST_MEMORY: "Not enough host memory is known to be free for its data.",
        Reason.UNSUPPORTED: "No way to move what it holds on the GPU is known yet, so it stays.",
        Reason.DISTRUSTED: "A copy of GPU memory came out wrong here, so nothing is moved until that alarm is cleared.",
        Reason.UNMANAGED: "No agent runs in this kernel, so it is left alone.",
        Reason.IN_FLIGHT: "Its data is being moved.",
        Reason.TURN: "Other kernels are being moved first; this one comes after them.",
        Reason.ALREADY_RECLAIMED: "Its data is safe in host memory and comes back when the next cell runs.",
        Reason.ALREADY_RESIDENT: "Its data is on the GPU already.",
        Reason.RETRY_LATER: "The last attempt did not succeed; nothing was lost, and it is tried again shortly.",
        Reason.THRASHING: "Moving data takes too much of the GPU's time, so whoever came back stays for longer.",
        Reason.NO_SPARE_ROOM: "There is no room to bring it back early; it comes back when its next cell runs.",
        Reason.LOST: "The driver lost this kernel's GPU memory; restart the kernel.",
        Reason.SWITCHED_OFF: "Reclaiming is switched off.",
        Reason.DRY_RUN: "Dry run: it would have been moved to host memory, and nothing was moved.",
        Reason.LOG_UNAVAILABLE: "The log of reclaims cannot be read or written, so nothing is reclaimed until it can.",
        Reason.COPY_DAMAGED: "A copy of GPU memory had another checksum than the original.",
        Reason.IDLE: "It has been idle for long.",
        Reason.PRESSURE: "GPU memory is short and it has been idle.",
        Reason.ADMISSION: "Somebody waits for room on the GPU and it has been idle.",
        Reason.REQUESTED: "Somebody asked for it.",
        Reason.USER_CODE: "A cell needs its data on the GPU.",
        Reason.ROOM: "Its code needs more GPU memory, and there is room.",
        Reason.PLACE: "A cell waited for its turn to run, and it has come.",
        Reason.PREFETCH: "Its user is coming back to it, and there is room to spare.",
        Reason.NO_PLACE: "As many notebooks as may run at once on this GPU are running; the cell runs after them.",
        Reason.NO_ROOM: "There is no room on the GPU for its data yet.",
        Reason.QUEUED: "Others came first; its turn comes after them.",
        Reason.SELF_RESTORED: "The kernel brought its data back by itself.",
        Reason.KERNEL_ENDED: "The kernel ended or was restarted.",
        Reason.CANCELLED: "A cell arrived while it was being moved, so the move was given up.",
        Reason.LINK_LOST: "The connection to the kernel's agent is lost; the kernel restores its data by itself.",
    }
)


def explain(
    decision: Decision,
    holding: Holding,
    policy: Policy,
    now: datetime,
    residence: Mapping[str, timedelta] = NO_LONGER,
) -> str:
    """Why this, in one sentence or two with the figures that matter, for the owner of the kernel."""
    if isinstance(decision, Wait):
        return _waiting(decision, holding)
    if isinstance(decision, Warn):
        return _idle(holding, policy, now, residence)
    if isinstance(decision, Reclaim | Restore):
        if isinstance(decision, Reclaim) and policy.mode == "dry_run":
            return f"{SENTENCES[decision.reason]} {SENTENCES[Reason.DRY_RUN]}"
        where = "host memory" if isinstance(decision, Reclaim) else "the GPU"
        ahead = " It needs less than what waits longer and goes first." if _passes(decision) else ""
        return (
            f"{SENTENCES[decision.reason]} Moving {human_bytes(holding.footprint_bytes)} to {where}.{ahead}"
        )
    if decision.reason is Reason.RECENTLY_ACTIVE:
        return _idle(holding, policy, now, residence)
    if decision.reason is Reason.THRASHING and holding.phase_since is not None:
        stay = max((residence.get(uuid, timedelta(0)) for uuid in holding.footprint), default=timedelta(0))
        left = human_span(holding.phase_since + stay - now)
        return f"{SENTENCES[decision.reason]} This one stays for another {left} at least."
    return _detail(decision.reason, holding, policy, now) or SENTENCES[decision.reason]


def human_bytes(count: int) -> str:
    """Bytes for a person, in binary units: "512 B", "64.0 MiB", "12.3 GiB"."""
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        # 1023.95 would be rounded to "1024.0"
        if size < 1023.95 or unit == "TiB":
            break
    return f"{size:.1f} {unit}"


def human_span(span: timedelta) -> str:
    """A span for a person, rounded down to its largest unit or two: "40 s", "6 min", "3 h 20 min", "2 d 4 h"."""
    seconds = max(0, int(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 60:
        return f"{minutes} min"
    big, small = (f"{hours} h", f"{minutes % 60} min") if hours < 24 else (f"{days} d", f"{hours % 24} h")
    return big if small.startswith("0 ") else f"{big} {small}"


def _waiting(wait: Wait, holding: Holding) -> str:
    place = f" It is number {wait.position} in the queue." if wait.position > 1 else ""
    if wait.reason is not Reason.NO_ROOM:
        return SENTENCES[wait.reason] + place
    resident = holding.phase is Phase.RESIDENT
    need = human_bytes(sum(holding.room_wanted.values()) if resident else holding.footprint_bytes)
    what = f"{need} more" if resident else need
    short = human_bytes(sum(wait.missing.values()))
    return f"Waiting for room on the GPU: {what} needed, {short} short.{place}"


def _passes(decision: Decision) -> bool:
    return isinstance(decision, Restore) and bool(decision.passed)


def _idle(holding: Holding, policy: Policy, now: datetime, residence: Mapping[str, timedelta]) -> str:
    due = reclaim_due_at(holding, policy, residence)
    idle = f"Idle for {human_span(idle_for(holding, now))}"
    return f"{idle}." if due is None else f"{idle}; reclaimed in {human_span(due - now)} unless used."


def _detail(reason: Reason, holding: Holding, policy: Policy, now: datetime) -> str | None:
    if reason is Reason.RUNNING and holding.running_since is not None:
        return f"Code has been running for {human_span(now - holding.running_since)}."
    if reason is Reason.BACKGROUND_WORK and holding.background_work:
        return f"Work goes on in the background: {', '.join(holding.background_work)}."
    if reason is Reason.PINNED and holding.pinned_until is not None:
        return f"Its user asked to keep it on the GPU for another {human_span(holding.pinned_until - now)}."
    if reason is Reason.TOO_SMALL:
        held, least = human_bytes(holding.footprint_bytes), human_bytes(policy.min_reclaim_bytes)
        return f"It holds {held}; less than {least} is not worth moving."
    if reason in (Reason.UNSUPPORTED, Reason.UNMANAGED):
        return holding.unsupported
    if reason is Reason.DISTRUSTED:
        return holding.distrusted
    if reason is Reason.HOST_MEMORY:
        return f"Not enough host memory is known to be free for its {human_bytes(holding.footprint_bytes)}."
    if reason is Reason.ALREADY_RECLAIMED:
        size = human_bytes(holding.host_bytes or holding.footprint_bytes)
        return f"Its {size} are safe in host memory and come back when the next cell runs."
    if reason is Reason.IN_FLIGHT and holding.phase is Phase.RESIDENT:
        return "What its code waited for is there; it goes ahead."
    if reason is Reason.IN_FLIGHT:
        where = "to host memory" if holding.phase is Phase.RECLAIMING else "back to the GPU"
        done, total = holding.moved_bytes, holding.move_total_bytes
        return f"Moving {where}: " + (
            f"{human_bytes(done)} of {human_bytes(total)}." if done is not None and total else "started."
        )
    return None
