"""The service's parts behind its addresses."""

from __future__ import annotations

from jupyter_gpu_reclaim.hub.store import HubStore
from jupyter_gpu_reclaim.ports import Clock
from jupyter_gpu_reclaim.reclaim_log import SqlReclaimLog


class Service:
    """What handlers may use: `log`, the fleet's; `store`, the service's tables; `clock`."""

    def __init__(self, db_url: str, clock: Clock) -> None:
        self.clock = clock
        self.log = SqlReclaimLog(db_url)
        self.store = HubStore(self.log)

    async def start(self) -> None:
        """Open the database. Raises `LogUnavailable`."""
        await self.log.open()
        await self.store.open()

    async def stop(self) -> None:
        """End everything, within a bounded time."""
        await self.log.close()
