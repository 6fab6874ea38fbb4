"""Dry runs of other rules, one at a time, each in a process of its own, which takes a core and can be ended."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
from contextlib import suppress
from datetime import timedelta

from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.core.policy_rules import Subject
from jupyter_gpu_reclaim.hub.dry_run import EVENTS, Comparison, Past, compare
from jupyter_gpu_reclaim.hub.fleet import Fleet, subject_of
from jupyter_gpu_reclaim.hub.policies import Book, Policies
from jupyter_gpu_reclaim.ports import Clock
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog

logger = logging.getLogger(__name__)

MOST_DAYS, MOST_ROWS = 7, 100_000
ROWS_AT_ONCE = 1000
LIMIT_SECONDS = 120.0  # of the replays
CHILD = "jupyter_gpu_reclaim.hub.dry_run_process"


class DryRunBusy(Exception):
    """Somebody's dry run is under way."""


class DryRunFailed(Exception):
    """It took too long, or its process came to an end; the message says which, and what to do."""


class DryRuns:
    """Compares rules with those in force over the last days of the log. Changes nothing."""

    def __init__(self, log: SqlReclaimLog, fleet: Fleet, policies: Policies, clock: Clock) -> None:
        self._log, self._fleet, self._policies, self._clock = log, fleet, policies, clock
        self._busy = False
        self._child: asyncio.subprocess.Process | None = None
        self.limit_seconds, self.most_rows = LIMIT_SECONDS, MOST_ROWS

    async def compare(self, tried: Book, days: int) -> Comparison:
        """What these rules, behind the standing overrides, would have brought in so many days until now.

        Raises ValueError for more days or rows than are replayed, `DryRunBusy`, `DryRunFailed`, `LogUnavailable`.
        """
        if not 1 <= days <= MOST_DAYS:
            raise ValueError(f"days must be a whole number from 1 to {MOST_DAYS}")
        if self._busy:
            raise DryRunBusy("Another dry run is under way; there is one at a time. Try again in a minute.")
        self._busy = True
        try:
            in_force, behind = self._policies.in_force, self._policies.with_rules(tried)
            past = await self._past(days)
            work = await asyncio.to_thread(pickle.dumps, (past, in_force, behind))
            return pickle.loads(await self._in_child(work))  # from our own process
        finally:
            self._busy = False

    async def stop(self) -> None:
        """End what is under way."""
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended by itself
                self._child.kill()
            await self._child.wait()

    async def _past(self, days: int) -> Past:
        until = self._clock.now()
        since = until - timedelta(days=days)
        rows: list[Transition] = []
        cursor: str | None = None
        while True:
            page, cursor = await self._log.query(
                events=EVENTS, since=since, until=until, after=cursor, limit=ROWS_AT_ONCE
            )
            rows += page
            if len(rows) > self.most_rows:
                raise ValueError(
                    f"The last {days} days of the log have more than {self.most_rows:,} rows about reclaims and "
                    "restores; no more are replayed. Try fewer days. Nothing was changed."
                )
            if cursor is None:
                break
        rows.reverse()
        return Past(
            rows=tuple(rows),
            since=since,
            until=until,
            subjects=self._subjects(rows),
            gpu_bytes={uuid: gpu.total_bytes for one in self._fleet for uuid, gpu in one.gpus.items()},
        )

    def _subjects(self, rows: list[Transition]) -> dict[str, Subject]:
        """By kernel id: as the server that holds it now, or any of its user's; else its user by name alone."""
        of_kernel, of_user = {}, {}
        for server in sorted(self._fleet, key=lambda one: one.key, reverse=True):  # the default server last
            subject = of_user[server.user] = subject_of(server)
            of_kernel |= {kernel.kernel_id: subject for kernel in server.kernels}
        return {
            row.kernel_id: found
            for row in rows
            if (found := of_kernel.get(row.kernel_id) or of_user.get(row.owner)) is not None
        }

    async def _in_child(self, work: bytes) -> bytes:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTERHUB")}
        self._child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", CHILD,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=environment,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self.limit_seconds):
                answer, complaint = await self._child.communicate(work)
        except TimeoutError:
            raise DryRunFailed(
                f"The dry run was ended after {self.limit_seconds:g} s. Nothing was changed. Try fewer days."
            ) from None
        finally:
            await self.stop()
        if self._child.returncode:
            logger.error(
                "A dry run's process ended with %s: %s", self._child.returncode, complaint.decode()[-4000:]
            )
            raise DryRunFailed(
                "The dry run's process failed; the service's own log says why. Nothing was changed."
            )
        return answer


def main() -> None:
    """The process: what to compare comes in, the comparison goes out."""
    os.nice(10)  # servers are answered first
    past, in_force, tried = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps(compare(past, in_force, tried)))


if __name__ == "__main__":
    main()
