"""Orders to users' kernels, with the reason that their users are shown."""

from __future__ import annotations

from datetime import datetime, timedelta

import tornado.web

from jupyter_gpu_reclaim.hub.pages.page import HubPage
from jupyter_gpu_reclaim.hub.records import Act

ORDERS = 50
LONGEST_REASON, LONGEST_PIN_HOURS = 500, 7 * 24


class OrdersHandler(HubPage):
    """All orders, newest first; a new one."""

    async def get(self) -> None:
        """GET orders?before=. Who has no scope sees what was ordered of their own kernels."""
        text = self.get_query_argument("before", None)
        before = None if text is None else self.whole("before", 1, 2**62)
        user = None if self.actor.may_read_all else self.actor.name
        orders, following = await self.service.store.orders(user=user, before=before, limit=ORDERS)
        self.show("orders.html", orders=orders, next=following)

    async def post(self) -> None:
        """POST orders: user, server, kernel_id, act, reason, and hours of a pin."""
        self.need_write()
        key = self.get_body_argument("user"), self.get_body_argument("server", "")
        kernel_id, reason = self.get_body_argument("kernel_id"), self.get_body_argument("reason", "").strip()
        seen = self.service.fleet.get(key)
        if seen is None or all(kernel.kernel_id != kernel_id for kernel in seen.kernels):
            raise tornado.web.HTTPError(404, "There is no such kernel any more. Nothing was ordered.")
        act = act_in(self.get_body_argument("act"))
        if not 0 < len(reason) <= LONGEST_REASON:
            raise ValueError(
                f"An order needs a reason of at most {LONGEST_REASON} letters: its user is shown it."
            )
        until = end_of_pin(self.get_body_argument("hours", ""), self.now) if act is Act.PIN else None
        await self.service.give_order(key, kernel_id, act, reason, self.actor.name, until)
        self.redirect(self.address("server", user=key[0], server=key[1]), status=303)


def act_in(word: str) -> Act:
    """What is ordered. Raises ValueError."""
    try:
        return Act(word)
    except ValueError:
        raise ValueError(f"act must be one of {', '.join(Act)}") from None


def end_of_pin(hours: str, now: datetime) -> datetime:
    """When a pin of so many hours ends. Raises ValueError."""
    try:
        count = float(hours)
    except ValueError:
        count = 0.0
    if not 0 < count <= LONGEST_PIN_HOURS:
        raise ValueError(f"A pin lasts for more than 0 and at most {LONGEST_PIN_HOURS} hours.")
    return now + timedelta(hours=count)


ROUTES = [(r"orders", OrdersHandler)]
