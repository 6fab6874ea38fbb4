"""A user's server and the Hub's service: policy and others' waits come in, status and transitions go out."""

from jupyter_gpu_reclaim.hub_link.link import HubLink
from jupyter_gpu_reclaim.hub_link.shared_board import SharedBoard

__all__ = ["HubLink", "SharedBoard"]
