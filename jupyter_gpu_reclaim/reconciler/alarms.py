"""Which alarms stand: read from the log once, kept in step with the rows that are made after that."""

from __future__ import annotations

import asyncio
import logging

from jupyter_gpu_reclaim.core.alarms import Alarm, standing
from jupyter_gpu_reclaim.core.model import Event, Transition
from jupyter_gpu_reclaim.ports import ReclaimLog
from jupyter_gpu_reclaim.reconciler.journal import RECORD_PATIENCE_SECONDS

logger = logging.getLogger(__name__)

EVENTS = (Event.ALARM_RAISED, Event.ALARM_CLEARED)


class UnknownAlarm(LookupError):
    """No alarm of that id stands."""


class Alarms:
    """Until `recalled`, what stands is not known, and nothing may be reclaimed."""

    def __init__(self, log: ReclaimLog) -> None:
        self._log = log
        self._rows: list[Transition] = []
        self.standing: tuple[Alarm, ...] = ()
        self.recalled = False

    async def recall(self) -> None:
        """Read what earlier servers have left, unless that is done. While the log does not answer it stays undone."""
        if self.recalled:
            return
        rows: list[Transition] = []
        after = None
        try:
            async with asyncio.timeout(RECORD_PATIENCE_SECONDS):
                while True:
                    page, after = await self._log.query(events=EVENTS, after=after)
                    rows.extend(page)
                    if after is None:
                        break
        except Exception as error:  # as with every defect of the log: restores go on without it
            logger.warning("The reclaim log cannot be read: %s", error or type(error).__name__)
            return
        for row in rows:
            self.take(row)
        self.recalled = True

    def take(self, row: Transition) -> None:
        """Take in a row of the log, if it is about alarms."""
        if row.event in EVENTS and row.id not in {known.id for known in self._rows}:
            self._rows.append(row)
            self.standing = standing(self._rows)
            if row.event is Event.ALARM_RAISED and self.recalled:
                logger.error(
                    "Alarm %s: %s Nothing is reclaimed there until it is cleared.", row.id, row.detail
                )

    def known(self, alarm_id: str) -> Alarm:
        """The alarm. Raises `UnknownAlarm`."""
        for alarm in self.standing:
            if alarm.id == alarm_id:
                return alarm
        raise UnknownAlarm(f"No alarm {alarm_id} stands.")
