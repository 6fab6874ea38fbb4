"""What people see of the service: pages made on the server, without scripts, in the sidebar's look."""

from jupyter_gpu_reclaim.hub.pages import dry_run, fleet, orders, past, policies
from jupyter_gpu_reclaim.hub.pages.page import StyleHandler

ROUTES = [
    *fleet.ROUTES,
    *orders.ROUTES,
    *past.ROUTES,
    *policies.ROUTES,
    *dry_run.ROUTES,
    (r"static/style\.css", StyleHandler),
]

__all__ = ["ROUTES"]
