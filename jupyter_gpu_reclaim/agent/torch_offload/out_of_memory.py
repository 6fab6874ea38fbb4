"""What torch's out-of-memory errors say: how much was asked of the driver, and on which GPU."""

import re

from .accelerator import OutOfMemoryError

# "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …", before torch 2.1 "… (GPU 0; …".
# The figure is the segment that the allocator needs, not the tensor.
_FAILED = re.compile(r"Tried to allocate ([\d.]+) (bytes|[KMGT]iB)\b.*?\bGPU (\d+)", re.DOTALL)
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def failed_allocation(error):
    """(index of the GPU, bytes) if this is torch's out-of-memory error and says so; None otherwise.

    The bytes are those of the message, rounded up by the digit that it rounds.
    """
    if not isinstance(error, OutOfMemoryError):
        return None
    said = _FAILED.search(str(error))
    if said is None:
        return None
    number, unit, index = said.groups()
    rounded = 0.5 * 10 ** -len(number.partition(".")[2]) if "." in number else 0.0
    return int(index), int((float(number) + rounded) * _UNITS[unit])
