"""Puts the link to a Hub's service together, where there is one to link to."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from typing import Any

from jupyter_gpu_reclaim.core.model import Policy, Transition
from jupyter_gpu_reclaim.core.policy_rules import TIGHTER
from jupyter_gpu_reclaim.hub_link import HubLink
from jupyter_gpu_reclaim.hub_link.kept_policy import KeptPolicy
from jupyter_gpu_reclaim.hub_link.link import recent_rows as rows_of_late
from jupyter_gpu_reclaim.hub_link.outbox import Outbox
from jupyter_gpu_reclaim.hub_link.service_calls import ServiceCalls
from jupyter_gpu_reclaim.ports import Clock
from jupyter_gpu_reclaim.reclaim_log.place import own_folder
from jupyter_gpu_reclaim.server.status_json import status_body

URL = "JUPYTER_GPU_RECLAIM_HUB_URL"
"""The variable by which a Hub says where its service is; `hub_url` goes before it."""
NODE = "JUPYTER_GPU_RECLAIM_NODE"
"""The machine's name where the server cannot know it: in a container the machine seems to be named as the container."""


def hub_link(extension: Any, policy: Policy, clock: Clock) -> HubLink | None:
    """The link, not yet started; None where no service is named or the Hub has not started this server."""
    url, token = extension.hub_url or os.environ.get(URL, ""), os.environ.get("JUPYTERHUB_API_TOKEN", "")
    if not url:
        return None
    if not token:
        extension.log.warning("%s is not linked to: this server was not started by a JupyterHub.", url)
        return None
    name = os.environ.get("JUPYTERHUB_SERVER_NAME", "")
    folder = own_folder()
    return HubLink(
        ServiceCalls(url, token, name),
        Outbox(folder / "hub_outbox"),
        KeptPolicy(policy, chosen(extension), folder / f"hub_policy{'-' * bool(name)}{name}.json"),
        clock,
        lambda status: status_body(status, extension.agents()),
        os.environ.get(NODE, "") or platform.node(),
    )


def chosen(extension: Any) -> set[str]:
    """The settings that somebody has made in this server's configuration, be it to their default."""
    names = {kind.__name__ for kind in type(extension).mro()}
    made = {name for section in names & extension.config.keys() for name in extension.config[section]}
    return made & TIGHTER.keys()


async def recent_rows(extension: Any) -> list[Transition]:
    """What the service may have missed. Nothing where names are disguised: it could not tell whose the rows are."""
    if extension.personal_data != "plain":
        return []
    return await rows_of_late(extension.reclaim_log.query, datetime.now(UTC))
