"""Keeps docs/reasons.md with core/explain.py: `python docs/reasons.py` writes each reason's sentence into it anew.

The answers under the sentences are written by hand and stay. A reason that is not on the page yet is put at its end.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jupyter_gpu_reclaim.core.explain import SENTENCES, explain
from jupyter_gpu_reclaim.core.model import Decision, Holding, Keep, Phase, Policy, Reason, Wait

PAGE = Path(__file__).with_name("reasons.md")
SECTION = re.compile(r"<!-- reason: (\w+) -->\n+### .*\n+`.*\n")

GIB, NOW = 1 << 30, datetime(2026, 11, 26, 14, 0, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
POLICY = Policy()
HOLDING = Holding(
    kernel_id="k",
    label="digits.ipynb",
    footprint={"GPU-0": 12 * GIB},
    running_since=NOW - 6 * MINUTE,
    last_active_at=NOW - 6 * MINUTE,
    background_work=("thread loader, of the notebook",),
    pinned_until=NOW + 3 * HOUR,
)
SMALL = Holding(kernel_id="k", label="digits.ipynb", footprint={"GPU-0": 20 << 20})
USED = Holding(
    kernel_id="k",
    label="digits.ipynb",
    footprint={"GPU-0": 12 * GIB},
    last_active_at=NOW - 6 * MINUTE,
    background_work=(),
    gpu_busy=False,
    mechanism="torch_offload",
    managed=True,
)
MOVING = Holding(
    kernel_id="k",
    label="digits.ipynb",
    phase=Phase.RECLAIMING,
    footprint={"GPU-0": 12 * GIB},
    moved_bytes=3 * GIB,
    move_total_bytes=12 * GIB,
)
EXAMPLES: dict[Reason, tuple[Decision, Holding]] = {
    **{
        reason: (Keep("k", reason), HOLDING)
        for reason in (
            Reason.RUNNING,
            Reason.BACKGROUND_WORK,
            Reason.PINNED,
            Reason.HOST_MEMORY,
            Reason.ALREADY_RECLAIMED,
        )
    },
    Reason.RECENTLY_ACTIVE: (Keep("k", Reason.RECENTLY_ACTIVE), USED),
    Reason.TOO_SMALL: (Keep("k", Reason.TOO_SMALL), SMALL),
    Reason.IN_FLIGHT: (Keep("k", Reason.IN_FLIGHT), MOVING),
    Reason.NO_ROOM: (Wait("k", Reason.NO_ROOM, 2, {"GPU-0": 5 * GIB}), HOLDING),
}
"""What is said with figures, where figures are said."""


def heading(reason: Reason) -> str:
    """The reason's marker, its sentence, its word, and how it is said with figures."""
    said = f" For instance: “{explain(*EXAMPLES[reason], POLICY, NOW)}”" if reason in EXAMPLES else ""
    return f"<!-- reason: {reason} -->\n\n### {SENTENCES[reason]}\n\n`{reason}`{said}\n"


def answered(page: str) -> dict[str, str]:
    """Each reason on the page with the answer below it."""
    parts = SECTION.split(page)
    return {
        reason: re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0].strip()
        for reason, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def anew(page: str) -> str:
    """The page with every sentence as the code has it. A reason that there is no more raises ValueError."""
    new = SECTION.sub(lambda found: heading(Reason(found[1])), page)
    missing = [reason for reason in Reason if reason not in answered(page)]
    return new + "".join(f"\n{heading(reason)}" for reason in missing)


if __name__ == "__main__":
    PAGE.write_text(anew(PAGE.read_text()))
