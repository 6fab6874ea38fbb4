"""What an offload or an onload can come to: values for success, exceptions for everything else. Stdlib only."""

from collections import namedtuple

# Why bytes stay on the GPU. Shown to people as they are.
SHARED = "shared with another process"
BORROWED = "imported through DLPack or an extension"
OVERLAPPING = "seen by PyTorch under two names"
ARRAY_INTERFACE = "in use by another library"
HELD_OUTSIDE = "held outside Python (DLPack, TorchScript or an extension)"
GRAPH = "recorded in a CUDA graph"
PRIVATE_POOL = "in a private memory pool"
NOT_OURS = "another library's memory, only seen by PyTorch"
FROZEN = "hidden by gc.freeze()"
UNEXPLAINED = "unexplained: no owner found"

# Where bytes may go that find no room in host memory: a folder on a disk, and how many of them.
SpillRoom = namedtuple("SpillRoom", ("folder", "limit_bytes"))

Offloaded = namedtuple(
    "Offloaded",
    (
        "moved_bytes",  # copied to the host
        "spilled_bytes",  # the part of them that lies on disk
        "freed_bytes",  # {uuid: bytes} that the allocator gave back to the driver
        "needed_bytes",  # {uuid: bytes} that coming back will take of the driver, segments included
        "unmovable",  # {reason sentence: bytes} left on the GPU
        "unexplained_bytes",  # the part of `unmovable` whose owner was not found
        "host_bytes",  # size of the host buffer
        "seconds",  # {"find", "account", "reserve", "copy", "commit", "free", "measure": seconds}
        "problem",  # None, or what went wrong in giving GPU memory back once the host had every byte
    ),
)

Onloaded = namedtuple(
    "Onloaded",
    (
        "moved_bytes",  # copied back
        "seconds",  # {"allocate", "copy", "commit": seconds}
    ),
)


class Unsupported(Exception):
    """This torch, on this machine, cannot be offloaded. The message is the reason, one sentence."""


class NothingToMove(Exception):
    """Nothing on the GPU can be moved; nothing was touched. `unmovable` is {reason: bytes}."""

    def __init__(self, message, unmovable=()):
        super().__init__(message, unmovable)
        self.unmovable = dict(unmovable)

    def __str__(self):
        return self.args[0]


class Cancelled(Exception):
    """The caller asked to stop before anything was changed: every tensor is where it was."""


class OutOfHostMemory(Exception):
    """The host has no room (or is not allowed to give any) for the bytes: every tensor is where it was."""


class CopyDamaged(Exception):
    """A copy from or to that device has another checksum than the original, which is whole if `memory_intact`."""

    def __init__(self, message, index, memory_intact=True):
        super().__init__(message)
        self.index = index
        self.memory_intact = memory_intact


class OffloadFailed(Exception):
    """The offload failed before anything was changed: every tensor is where it was.

    `damaged_gpu` is the UUID of the GPU from which a copy came out wrong, None where something else went wrong.
    """

    def __init__(self, message, damaged_gpu=None):
        super().__init__(message)
        self.damaged_gpu = damaged_gpu


class OutOfDeviceMemory(Exception):
    """The GPU has no room for the bytes now. They stay in host memory, complete; the onload can be tried again."""


class OnloadFailed(Exception):
    """The onload failed. With `memory_intact` the bytes are still complete in host memory and it can be tried again.

    `damaged_gpu` is the UUID of the GPU whose bytes came out wrong, None where something else went wrong.
    """

    def __init__(self, message, memory_intact=True, damaged_gpu=None):
        super().__init__(message)
        self.memory_intact = memory_intact
        self.damaged_gpu = damaged_gpu
