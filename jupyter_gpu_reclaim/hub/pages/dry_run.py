"""Rules tried against the last days of the log, before anybody makes them hold."""

from __future__ import annotations

import asyncio

from jupyter_gpu_reclaim.hub.dry_run import Brought
from jupyter_gpu_reclaim.hub.dry_run_process import MOST_DAYS
from jupyter_gpu_reclaim.hub.dry_run_words import NOT_MODELLED
from jupyter_gpu_reclaim.hub.pages.page import HubPage
from jupyter_gpu_reclaim.hub.policies import Book, book_from

LONGEST_RULES = 100_000


class DryRunHandler(HubPage):
    """What other rules would have brought."""

    async def post(self) -> None:
        """POST policies/try: rules as in the file, days."""
        self.need_write()
        text, days = self.get_body_argument("rules"), self.get_body_argument("days", str(MOST_DAYS))
        if not days.isascii() or not days.isdigit():
            raise ValueError(f"days must be a whole number from 1 to {MOST_DAYS}")
        tried = await asyncio.to_thread(tried_in, text)
        found = await self.service.dry_runs.compare(tried, int(days[:9]))
        self.show(
            "dry_run.html",
            found=found,
            rows=figures(found.in_force, found.tried),
            not_modelled=NOT_MODELLED,
            tried_rules=text,
            days=int(days),
        )


def tried_in(text: str) -> Book:
    """The rules that are tried. Raises ValueError with the line and what is wrong there."""
    if len(text) > LONGEST_RULES:
        raise ValueError(f"The rules have at most {LONGEST_RULES:,} letters.")
    try:
        return book_from(text, "rules")
    except RecursionError:
        raise ValueError("The rules are nested too deep.") from None


def figures(in_force: Brought, tried: Brought) -> list[tuple[str, str, str, str]]:
    """Each figure by its name: under the rules in force, under those tried, and the difference."""
    return [
        (name, pattern.format(before), pattern.format(after), f"{{:+{pattern[2:]}".format(after - before))
        for name, pattern, before, after in (
            ("reclaimed, GiB-h", "{:,.1f}", in_force.reclaimed_gib_hours, tried.reclaimed_gib_hours),
            ("waits", "{:,}", in_force.waits, tried.waits),
            ("waited in all, s", "{:,.0f}", in_force.waited_seconds, tried.waited_seconds),
            ("restores", "{:,}", in_force.restores, tried.restores),
        )
    ]


ROUTES = [(r"policies/try", DryRunHandler)]
