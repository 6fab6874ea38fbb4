"""Dry runs of other rules, one at a time, each in a process of its own, which takes a core and can be ended."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from jupyter_gpu_reclaim.core.figures import Share
from jupyter_gpu_reclaim.core.model import Transition
from jupyter_gpu_reclaim.core.policy_rules import Subject
from jupyter_gpu_reclaim.hub.dry_run import EVENTS, Comparison, Past, compare
from jupyter_gpu_reclaim.hub.fleet import Fleet, subject_of
from jupyter_gpu_reclaim.hub.policies import Book, Policies
from jupyter_gpu_reclaim.hub.seen_use import seen_use
from jupyter_gpu_reclaim.ports import Clock, LogUnavailable
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog
from jupyter_gpu_reclaim.reclaim_log.usage import USE_KEPT_SECONDS, UsageStore

logger = logging.getLogger(__name__)

MOST_DAYS, MOST_ROWS = 7, 50_000
MOST_MINUTES = 300_000  # of all kernels together, the newest: how long each was in use is known so far back
ROWS_AT_ONCE, SECONDS_AT_ONCE = 1000, 3600
LIMIT_SECONDS = 120.0  # 100,000 rows took 98 s on a busy machine
CHILD = "jupyter_gpu_reclaim.hub.dry_run_process"


class DryRunBusy(Exception):
    """Somebody's dry run is under way."""


class DryRunFailed(Exception):
    """It took too long, or its process came to an end; the message says which, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the process is to do. It reads the log itself, so that no rows go through the service."""

    db_url: str
    since: datetime
    until: datetime
    most_rows: int
    of_kernel: Mapping[str, Subject]  # by its id: as the server that has it now
    of_user: Mapping[str, Subject]  # by their name: as any server of theirs, the default one first
    gpu_bytes: Mapping[str, int]
    in_force: Book
    tried: Book


class DryRuns:
    """Compares rules with those in force over the last days of the log. Changes nothing."""

    def __init__(self, db_url: str, fleet: Fleet, policies: Policies, clock: Clock) -> None:
        self._db_url, self._fleet, self._policies, self._clock = db_url, fleet, policies, clock
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
            found = pickle.loads(await self._in_child(pickle.dumps(self._work(tried, days))))  # our own words
        finally:
            self._busy = False
        if isinstance(found, Comparison):
            return found
        if found is None:
            raise ValueError(
                f"The last {days} days of the log have more than {self.most_rows:,} rows about reclaims and "
                "restores; no more are replayed. Try fewer days. Nothing was changed."
            )
        raise LogUnavailable(found)

    async def stop(self) -> None:
        """End what is under way."""
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended by itself
                self._child.kill()
            await self._child.wait()

    def _work(self, tried: Book, days: int) -> Work:
        until = self._clock.now()
        of_kernel, of_user = {}, {}
        for server in sorted(self._fleet, key=lambda one: one.key, reverse=True):  # the default server last
            subject = of_user[server.user] = subject_of(server)
            of_kernel |= {
                kernel.kernel_id: replace(subject, kernelspec=kernel.kernel_name) for kernel in server.kernels
            }
        return Work(
            db_url=self._db_url,
            since=until - timedelta(days=days),
            until=until,
            most_rows=self.most_rows,
            of_kernel=of_kernel,
            of_user=of_user,
            gpu_bytes={uuid: gpu.total_bytes for one in self._fleet for uuid, gpu in one.gpus.items()},
            in_force=self._policies.in_force,
            tried=self._policies.with_rules(tried),
        )

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


async def past_of(work: Work) -> Past | None:
    """What the log has of that time; None: more rows than are to be replayed. Raises `LogUnavailable`."""
    log = SqlReclaimLog(work.db_url)
    rows: list[Transition] = []
    cursor: str | None = None
    try:
        while True:
            page, cursor = await log.query(
                events=EVENTS, since=work.since, until=work.until, after=cursor, limit=ROWS_AT_ONCE
            )
            rows += page
            if len(rows) > work.most_rows:
                return None
            if cursor is None:
                break
        seen = seen_use(await _minutes(UsageStore(log, "hub"), work))
    finally:
        await log.close()
    rows.reverse()
    owners = {row.kernel_id: row.owner for row in rows} | {name: use.owner for name, use in seen.items()}
    subjects = {name: work.of_kernel.get(name) or work.of_user.get(owner) for name, owner in owners.items()}
    return Past(
        rows=tuple(rows),
        since=work.since,
        until=work.until,
        subjects={kernel_id: subject for kernel_id, subject in subjects.items() if subject is not None},
        gpu_bytes=work.gpu_bytes,
        seen=seen,
    )


async def _minutes(usage: UsageStore, work: Work) -> list[tuple[int, Share]]:
    """Hour by hour back from the end, so that no single question takes long."""
    until = int(work.until.timestamp())
    since = max(int(work.since.timestamp()), until - USE_KEPT_SECONDS)
    found: list[tuple[int, Share]] = []
    while until > since and len(found) < MOST_MINUTES:
        begin = max(since, until - SECONDS_AT_ONCE)
        found += await usage.minutes(begin, until)
        until = begin
    return found


def main() -> None:
    """The process: work comes in; out goes the comparison, None for too many rows, or why there is no log."""
    os.nice(10)  # servers are answered first
    work: Work = pickle.load(sys.stdin.buffer)
    found: Comparison | str | None
    try:
        past = asyncio.run(past_of(work))
        found = None if past is None else compare(past, work.in_force, work.tried)
    except LogUnavailable as error:
        found = str(error)
    sys.stdout.buffer.write(pickle.dumps(found))


if __name__ == "__main__":
    # Under its own name: what is unpickled here is of the module that the service knows.
    from jupyter_gpu_reclaim.hub import dry_run_process

    dry_run_process.main()
