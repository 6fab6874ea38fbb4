"""What NVML, agent and Jupyter each know of a kernel, joined: no byte from a guess, and unknown stays unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_gpu_reclaim.core.model import Phase
from jupyter_gpu_reclaim.gpu.nvml import Reading
from jupyter_gpu_reclaim.server.agent_status import AgentStatus, parse_status
from jupyter_gpu_reclaim.server.holdings import (
    ONLY_CONTEXT,
    GpuProcess,
    KernelFacts,
    Seen,
    background_work,
    footprint_of,
    gpu_busy,
    managed_holding,
    unmanaged_holding,
)
from jupyter_gpu_reclaim.server.observer import busy_of

KERNEL = KernelFacts(kernel_id="k", label="a.ipynb", owner="ada", language="python", pid=9)
HOLDS = AgentStatus(
    mechanism="torch_offload", reserved_bytes={"A": 80, "B": 0}, allocated_bytes={"A": 70, "B": 0}
)


def own(gpu: str, used_bytes: int | None) -> GpuProcess:
    """The kernel's own process on a GPU."""
    return GpuProcess(pid=10, gpu=gpu, used_bytes=used_bytes)


def test_a_footprint_comes_from_nvml_where_it_lists_the_process() -> None:
    """NVML's figure, context included, goes before the allocator's; a GPU only the allocator knows is added."""
    assert footprint_of(HOLDS, Seen(own=[own("A", 100)])) == ({"A": 100}, "nvml")
    assert footprint_of(HOLDS, Seen(own=[own("A", None)])) == ({"A": 80}, "allocator")
    assert footprint_of(HOLDS, Seen()) == ({"A": 80}, "allocator")
    assert footprint_of(HOLDS, Seen(own=[own("B", 5)])) == ({"A": 80, "B": 5}, "allocator")
    assert footprint_of(AgentStatus(), Seen()) == ({}, None)


@pytest.mark.parametrize("phase", [Phase.RECLAIMED, Phase.RESTORING])
def test_while_away_the_footprint_is_what_coming_back_needs(phase: Phase) -> None:
    """A reclaimed kernel's footprint is not what NVML still shows of it (its context) but what it will need."""
    away = replace(HOLDS, phase=phase, needed_bytes={"A": 96, "B": 0})
    assert footprint_of(away, Seen(own=[own("A", 16)])) == ({"A": 96}, "allocator")


def test_children_on_the_gpu_are_background_work_even_before_the_agent_has_judged() -> None:
    """A child that holds GPU memory counts at once, and once on however many GPUs; without any, unknown stays None."""
    child = GpuProcess(pid=11, gpu="A", used_bytes=1, name="loader")
    seen = Seen(children=[child, replace(child, gpu="B")])
    named = "child process 11 (loader) holds GPU memory"
    assert background_work(AgentStatus(), Seen()) is None
    assert background_work(AgentStatus(background_work=()), Seen()) == ()
    assert background_work(AgentStatus(), seen) == (named,)
    assert background_work(AgentStatus(background_work=("thread t",)), seen) == ("thread t", named)
    assert managed_holding(KERNEL, 10, HOLDS, None, seen).footprint == {"A": 80}


@pytest.mark.parametrize(
    ("nvml", "allocator", "busy"),
    [
        (True, None, True),
        (False, True, True),
        (True, False, True),
        (False, None, False),
        (None, False, False),
        (False, False, False),
        (None, None, None),
    ],
)
def test_busy_if_either_says_so_and_unknown_only_if_neither_can(
    nvml: bool | None, allocator: bool | None, busy: bool | None
) -> None:
    """GPU work seen by NVML or by the allocator's counters is work; None only where nobody can tell."""
    assert gpu_busy(AgentStatus(allocator_active=allocator), Seen(busy=nvml)) is busy


def test_nvml_knows_of_work_only_on_gpus_it_can_sample() -> None:
    """Work on any GPU is work; without samples of a GPU the process is on, idleness is not known."""
    reading = Reading(gpus=(), busy={"A": {10: 40}, "B": {}, "C": None})
    assert busy_of(reading, [own("A", 1), own("C", 1)]) is True
    assert busy_of(reading, [own("B", 1)]) is False
    assert busy_of(reading, [own("B", 1), own("C", 1)]) is None
    assert busy_of(reading, [own("elsewhere", 1)]) is None
    assert busy_of(reading, []) is None


def test_a_kernel_with_nothing_but_its_context_cannot_be_reclaimed() -> None:
    """CUDA's context is no data: no mechanism moves it, and the sentence says what ends it."""
    empty = replace(HOLDS, reserved_bytes={"A": 0}, allocated_bytes={"A": 0})
    holding = managed_holding(KERNEL, 10, empty, None, Seen(own=[own("A", 300)], busy=False))
    assert (holding.footprint, holding.mechanism, holding.unsupported) == ({"A": 300}, None, ONLY_CONTEXT)
    full = managed_holding(KERNEL, 10, HOLDS, None, Seen(own=[own("A", 300)], busy=False))
    assert (full.mechanism, full.unsupported) == ("torch_offload", None)


def test_progress_is_shown_only_while_bytes_move() -> None:
    """The figures of a move are gone when it is over."""
    moving = replace(HOLDS, phase=Phase.RECLAIMING)
    holding = managed_holding(KERNEL, 10, moving, (3, 80), Seen())
    assert (holding.moved_bytes, holding.move_total_bytes) == (3, 80)
    holding = managed_holding(KERNEL, 10, HOLDS, (80, 80), Seen())
    assert (holding.moved_bytes, holding.move_total_bytes) == (None, None)


def test_an_unmanaged_kernel_shows_what_nvml_sees_and_why() -> None:
    """Without an agent a kernel has its footprint and a reason, and nothing that would let it be reclaimed."""
    holding = unmanaged_holding(KERNEL, Seen(own=[own("A", 5)], busy=True), "No agent.")
    assert (holding.managed, holding.mechanism, holding.unsupported) == (False, None, "No agent.")
    assert (holding.footprint, holding.footprint_source, holding.gpu_busy) == ({"A": 5}, "nvml", True)
    assert (holding.last_active_at, holding.background_work) == (None, None)


def test_a_status_without_its_keys_is_all_unknown() -> None:
    """What an agent leaves out is unknown, never idle."""
    status = parse_status({"phase": "resident"})
    assert (status.last_active_at, status.background_work, status.allocator_active) == (None, None, None)
    with pytest.raises(ValueError, match="None"):
        parse_status({})
