"""Metrics on Jupyter's own /metrics: what is held now, and what has happened since the server started.

Labels have few values: GPUs there are, words of ours, and at most `MOST_CAUSES` causes that kernels' agents name.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from jupyter_gpu_reclaim.core.episodes import OPEN, Episode, EpisodeOutcome, fold
from jupyter_gpu_reclaim.core.model import Event, Holding, Phase, Transition
from jupyter_gpu_reclaim.core.usage import gpu_amounts
from jupyter_gpu_reclaim.reconciler import Status

PREFIX = "jupyter_gpu_reclaim"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
MOST_CAUSES = 16
OTHER = "other"


class WaitingRows(Protocol):
    """What the log says of its queue."""

    waiting: int
    dropped: int


class Metrics:
    """Registered while started. `see` is a listener for `Reconciler.on_change`."""

    def __init__(self, log: WaitingRows, cooldown: timedelta, registry: CollectorRegistry = REGISTRY) -> None:
        self._log = log
        self._cooldown = cooldown
        self._registry = registry
        self._status: Status | None = None
        self._open: dict[str, list[Transition]] = {}  # rows of episodes under way
        self._waiting: dict[str, datetime] = {}  # kernels with waiting code, since when
        self._causes: set[str] = set()
        self._episodes = _counter(
            "episodes", "Reclaims that ended, by why they began and how.", "reason", "outcome"
        )
        self._thrashes = _counter(
            "thrashes", "Restores of kernels that had been away for no longer than cooldown_seconds."
        )
        self._suspend = _histogram(
            "suspend_duration_seconds", "Time that moving a kernel's bytes to the host took."
        )
        self._restore = _histogram(
            "restore_duration_seconds", "Time that bringing a kernel's bytes back took."
        )
        self._wait = _histogram(
            "wait_seconds", "Time for which code of a user waited until its data was back."
        )

    def start(self) -> None:
        """Be on /metrics."""
        self._registry.register(self)

    def stop(self) -> None:
        """Be there no more."""
        self._registry.unregister(self)

    def see(self, status: Status, rows: Iterable[Transition]) -> None:
        """Take in what a tick found and what has happened since the last."""
        for row in rows:
            self._take(row)
        self._status = status
        for holding in status.snapshot.holdings if status.snapshot is not None else ():
            if holding.waiting and holding.phase in (Phase.RECLAIMED, Phase.RESTORING):
                since = holding.restore_wanted_at or status.snapshot.taken_at
                self._waiting.setdefault(holding.kernel_id, since)

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield from self._held()
        yield self._unmovable()
        yield _gauge(
            "log_queue_rows", "Rows of the log that wait on disk for its database.", self._log.waiting
        )
        yield _gauge(
            "log_lost_rows", "Rows lost for want of room there, not yet told in the log.", self._log.dropped
        )
        for one in (self._episodes, self._thrashes, self._suspend, self._restore, self._wait):
            yield from one.collect()

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask for values."""
        return []

    # -- now --------------------------------------------------------------------------------------------------------

    def _held(self) -> Iterator[Metric]:
        snapshot = None if self._status is None else self._status.snapshot
        rates = {
            gpu.uuid: gpu_amounts(gpu, snapshot.holdings)
            for gpu in (snapshot.gpus if snapshot is not None else None) or ()
        }
        for name, what in (
            ("resident", "Bytes of this server's kernels on the GPU."),
            ("reclaimed", "Bytes that they gave back, needed again on their next cell."),
            ("others", "Bytes on the GPU of anybody else."),
            ("total", "Bytes that the GPU has."),
        ):
            family = GaugeMetricFamily(f"{PREFIX}_{name}_bytes", what, labels=["gpu"])
            for uuid, amounts in rates.items():
                family.add_metric([uuid], getattr(amounts, name))
            yield family

    def _unmovable(self) -> Metric:
        sizes: Tally[str] = Tally()
        for holding in self._holdings():
            for cause, size in holding.unmovable.items():
                if cause not in self._causes and len(self._causes) < MOST_CAUSES:
                    self._causes.add(cause)
                sizes[cause if cause in self._causes else OTHER] += size
        family = GaugeMetricFamily(
            f"{PREFIX}_unmovable_bytes",
            "Bytes that stayed on the GPU at the last reclaim, by the cause.",
            labels=["cause"],
        )
        for cause, size in sizes.items():
            family.add_metric([cause], size)
        return family

    def _holdings(self) -> tuple[Holding, ...]:
        snapshot = None if self._status is None else self._status.snapshot
        return () if snapshot is None else snapshot.holdings

    # -- since the start --------------------------------------------------------------------------------------------

    def _take(self, row: Transition) -> None:
        if row.event is Event.RECLAIM_DONE and row.took is not None:
            self._suspend.observe(row.took.total_seconds())
        if row.event is Event.RESTORE_DONE:
            since = self._waiting.pop(row.kernel_id, None)
            if since is not None:
                self._wait.observe(max(0.0, (row.at - since).total_seconds()))
            if row.took is not None:
                self._restore.observe(row.took.total_seconds())
        if row.event in (Event.WAIT_ENDED, Event.KERNEL_GONE, Event.LOST):
            self._waiting.pop(row.kernel_id, None)
        if row.event in (Event.RECLAIM_STARTED, Event.RECLAIM_DONE):
            self._open.setdefault(row.episode_id or "", [])
        if row.episode_id in self._open:  # rows about pins and alarms may name an episode that is over
            self._open[row.episode_id].append(row)
            (episode,) = fold(self._open[row.episode_id])
            if episode.outcome not in OPEN:
                del self._open[row.episode_id]
                self._end(episode)

    def _end(self, episode: Episode) -> None:
        reason = "unknown" if episode.reason is None else episode.reason.value
        self._episodes.labels(reason, episode.outcome.value).inc()
        away = episode.reclaimed_for
        if episode.outcome is EpisodeOutcome.RESTORED and away is not None and away <= self._cooldown:
            self._thrashes.inc()


def _counter(name: str, what: str, *labels: str) -> Counter:
    return Counter(f"{PREFIX}_{name}", what, labels, registry=None)


def _histogram(name: str, what: str) -> Histogram:
    return Histogram(f"{PREFIX}_{name}", what, buckets=SECONDS, registry=None)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", what, value=value)
