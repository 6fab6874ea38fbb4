"""The torch device "simgpu". `import torch` calls `autoload` through the entry point group torch.backends.

Nothing but the standard library is imported, and nothing else is done, unless the environment names a board.
"""

from __future__ import annotations

import os
import sys

BOARD_VARIABLE = "JUPYTER_GPU_RECLAIM_SIM_BOARD"  # path of the board file; unset: no simulated GPU anywhere


def autoload() -> None:
    """Register the device when the environment names a board; do nothing otherwise. Never raises: it says why on stderr.

    `import torch` would fail for the user if this raised; a warning can be made an error by a filter.
    """
    if not os.environ.get(BOARD_VARIABLE):
        return
    try:
        from .torch_module import register

        register()
    except Exception as error:
        print(f"jupyter_gpu_reclaim: no simulated GPU in this process: {error}", file=sys.stderr, flush=True)
