"""Cooperation between the servers of one machine: a board of waiting restores, and a lock per GPU."""

from jupyter_gpu_reclaim.node.board import NodeBoard

__all__ = ["NodeBoard"]
