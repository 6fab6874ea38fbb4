"""`torch.simgpu.amp`: mixed precision by the names that `torch.cuda.amp` has."""

from __future__ import annotations

import functools
from typing import Any

import torch

DEVICE_TYPE = "simgpu"

custom_fwd = functools.partial(torch.amp.custom_fwd, device_type=DEVICE_TYPE)
custom_bwd = functools.partial(torch.amp.custom_bwd, device_type=DEVICE_TYPE)


class autocast(torch.autocast):
    """`torch.autocast("simgpu", …)`, as `torch.cuda.amp.autocast` is for CUDA."""

    def __init__(
        self, enabled: bool = True, dtype: torch.dtype = torch.float16, cache_enabled: bool = True
    ) -> None:
        super().__init__(DEVICE_TYPE, enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


class GradScaler(torch.amp.GradScaler):
    """`torch.amp.GradScaler("simgpu", …)`, as `torch.cuda.amp.GradScaler` is for CUDA."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(DEVICE_TYPE, *args, **kwargs)
