"""The torch device "simgpu". `import torch` calls `autoload` through the entry point group torch.backends."""

import os

BOARD_VARIABLE = "JUPYTER_GPU_RECLAIM_SIM_BOARD"  # path of the board file; unset: no simulated GPU anywhere


def autoload() -> None:
    """Registers the device when the environment names a board; does nothing otherwise."""
    if not os.environ.get(BOARD_VARIABLE):
        return
    raise NotImplementedError
