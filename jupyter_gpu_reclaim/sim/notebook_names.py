"""The names that notebooks use from `torch.cuda`, for `torch.simgpu`: a notebook runs after changing the device's name.

`torch_backend.register` takes them all into the module that is `torch.simgpu`. What has no meaning here answers as CUDA
does where nothing is to be done. Left out, so that nobody takes an imitation for the thing: CUDA graphs, memory pools,
NCCL.
"""

from __future__ import annotations

from typing import Any

import torch

from . import amp

DEVICE_TYPE = amp.DEVICE_TYPE

# --- streams and events: one stream per device, which is the current and the default one

Stream = torch.Stream
current_stream = torch.accelerator.current_stream
default_stream = torch.accelerator.current_stream


def Event(enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> torch.Event:
    """A new event on this device; `elapsed_time` is in milliseconds, measured.

    No class of its own: torch compares events by their exact type.
    """
    return torch.Event(DEVICE_TYPE, enable_timing=enable_timing)


class stream:
    """A context in which a stream is the current one. There is only one, so nothing changes; None is allowed."""

    def __init__(self, stream: torch.Stream | None):
        self._stream = stream

    def __enter__(self) -> torch.Stream | None:
        return self._stream

    def __exit__(self, *exc_info: object) -> None:
        pass


def set_stream(stream: torch.Stream) -> None:
    """There is only one stream: nothing to set."""


def is_current_stream_capturing() -> bool:
    """Never: nothing is recorded here."""
    return False


# --- random numbers: device operators draw from the CPU's generator


def manual_seed(seed: int) -> None:
    """Seed the generator that device operators draw from, which is the CPU's."""
    torch.default_generator.manual_seed(int(seed))


manual_seed_all = manual_seed


def seed() -> None:
    """Seed it with a number from the system."""
    torch.default_generator.seed()


seed_all = seed


def initial_seed() -> int:
    """What it was seeded with."""
    return torch.initial_seed()


def get_rng_state(device: Any = None) -> torch.Tensor:
    """The CPU generator's state."""
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
    """Set the CPU generator's state."""
    torch.set_rng_state(state)


def get_rng_state_all() -> list[torch.Tensor]:
    """One state: all devices draw from the same generator."""
    return [get_rng_state()]


def set_rng_state_all(states: list[torch.Tensor]) -> None:
    """What `get_rng_state_all` gave."""
    for state in states:
        set_rng_state(state)


# --- mixed precision


def get_amp_supported_dtype() -> list[torch.dtype]:
    """What autocast may use."""
    return [torch.bfloat16, torch.float16]


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """True: bfloat16 is what the CPU makes of it."""
    return True


# --- the allocator, for people


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """The allocator's figures as a text; it begins with the device's name, which says that it is simulated."""
    device = torch.simgpu._index(device)
    stats = torch.simgpu.memory_stats(device)
    rows = [
        f"{torch.simgpu.get_device_name(device)}, device {device}",
        f"{'bytes':<12}{'now':>16}{'most':>16}",
    ]
    for name, label in (("allocated_bytes", "allocated"), ("reserved_bytes", "reserved")):
        now, most = (stats.get(f"{name}.all.{when}", 0) for when in ("current", "peak"))
        rows.append(f"{label:<12}{now:>16,}{most:>16,}")
    return "\n".join(rows)


def reset_max_memory_allocated(device: Any = None) -> None:
    """The same as `reset_peak_memory_stats`, as in torch.cuda."""
    torch.simgpu.reset_peak_memory_stats(device)


def reset_accumulated_memory_stats(device: Any = None) -> None:
    """Let the counters of all that was ever allocated begin anew."""
    torch.accelerator.reset_accumulated_memory_stats(torch.simgpu._index(device))


def ipc_collect() -> None:
    """Nothing is shared between processes here, so nothing is collected."""


def get_arch_list() -> list[str]:
    """No architecture: no CUDA code runs here."""
    return []


def can_device_access_peer(device: Any, peer_device: Any) -> bool:
    """All simulated devices lie in the same host memory."""
    return torch.simgpu._index(device) != torch.simgpu._index(peer_device)
