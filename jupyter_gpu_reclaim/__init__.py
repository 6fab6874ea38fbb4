"""Takes the GPU back from idle notebooks, and gives it back unseen on the next cell.

This file holds Jupyter's entry points and the version, and imports nothing heavy: `import torch` in a kernel passes
through here when the simulated GPU is switched on.
"""

__version__ = "0.1.0"


def _jupyter_server_extension_points() -> list[dict]:
    """What jupyter_server reads to find the extension."""
    from jupyter_gpu_reclaim.server.app import GpuReclaim

    return [{"module": "jupyter_gpu_reclaim", "app": GpuReclaim}]
