"""This process's accelerator, asked by name for what the mechanism needs. Nothing here initialises a device."""

from collections import namedtuple
from itertools import accumulate, compress

import torch

from . import cuda
from .outcome import Unsupported
from .places import place

# Live blocks of torch's caching allocator: `sizes` is {place: bytes}, `private` {place} of those in pools of their own
# (CUDA graphs, torch.cuda.MemPool).
Blocks = namedtuple("Blocks", ("sizes", "private"))

# What torch's allocator holds on one device; `counts`: blocks it has ever given out and taken back.
Usage = namedtuple("Usage", ("allocated_bytes", "reserved_bytes", "counts"))

OutOfMemoryError = getattr(torch, "OutOfMemoryError", None) or torch.cuda.OutOfMemoryError


class Accelerator:
    """Device-generic: `torch.accelerator` where this torch has it, else the device's own module (`torch.cuda`)."""

    def __init__(self):
        self.type = _device_type()
        self.module = getattr(torch, self.type, None)
        if self.module is None:
            raise Unsupported("PyTorch has no module torch.{} for its accelerator.".format(self.type))
        self.synchronize = self._function("synchronize")
        self.empty_cache = self._function("empty_cache")
        self._stats = self._nested_stats()
        self._properties = self._function("get_device_properties")
        self._snapshot = getattr(self.module, "memory_snapshot", None)
        self._devices = {}  # index → torch.device: making one takes longer than looking it up
        self._touched = set()  # indices of the devices torch has ever held memory on
        self._described = {}  # index → (uuid, name)

    def _function(self, name):
        function = getattr(getattr(torch, "accelerator", None), name, None) or getattr(
            self.module, name, None
        )
        if function is None:
            raise Unsupported("torch.{} has no {}, which moving its memory needs.".format(self.type, name))
        return function

    def _nested_stats(self):
        # memory_stats() would do, but each call leaves cyclic garbage, and collection is off while bytes are away
        stats = getattr(torch._C, "_accelerator_getDeviceStats", None)
        stats = stats or getattr(self.module, "memory_stats_as_nested_dict", None)
        if stats is None:
            raise Unsupported("torch.{} does not tell its allocator's statistics.".format(self.type))
        return stats

    def device(self, index):
        """The torch device of that index."""
        found = self._devices.get(index)
        if found is None:
            found = self._devices[index] = torch.device(self.type, index)
        return found

    def initialized(self):
        """Whether torch has initialised the accelerator at all in this process."""
        return bool(getattr(self.module, "is_initialized", lambda: True)())

    def touched(self):
        """{index: `Usage`} of the devices torch has ever held memory on in this process."""
        if not self.initialized():
            return {}
        devices = {}
        for index in range(self.module.device_count()):
            stats = self._stats(index)
            blocks = stats["allocation"]["all"]
            usage = Usage(
                stats["allocated_bytes"]["all"]["current"],
                stats["reserved_bytes"]["all"]["current"],
                (blocks["allocated"], blocks["freed"]),
            )
            if index in self._touched or usage.reserved_bytes:
                self._touched.add(index)
                devices[index] = usage
        return devices

    def describe(self, index):
        """(uuid in NVML's form, name) of a touched device. Raises Unsupported when torch does not tell its UUID."""
        if index not in self._described:
            properties = self._properties(index)
            uuid = str(getattr(properties, "uuid", None) or "")
            if not uuid:
                raise Unsupported("torch.{} does not tell the UUIDs of its devices.".format(self.type))
            if not uuid.startswith(("GPU-", "MIG-")):
                uuid = "GPU-" + uuid
            self._described[index] = (uuid, str(getattr(properties, "name", self.type)))
        return self._described[index]

    def uuid(self, index):
        """The UUID of a touched device."""
        return self.describe(index)[0]

    def total_bytes(self, index):
        """The memory of a device, all of it, whoever holds it."""
        return self._properties(index).total_memory

    def live_blocks(self):
        """The live `Blocks` of torch's allocator, or None where this accelerator cannot list them."""
        if self._snapshot is None:
            return None
        sizes, private = {}, set()
        for segment in cuda.segments(self._snapshot):
            of_segment = _live(segment)
            sizes.update(of_segment)
            if tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0):
                private.update(of_segment)
        return Blocks(sizes, private)

    def guard(self, index):
        """A context manager that makes the device current in this thread."""
        return self.module.device(index)


def _live(segment):
    """{place: bytes} of its live blocks; the blocks, live or not, fill their segment one after the other."""
    blocks = segment["blocks"]
    sizes = [block["size"] for block in blocks]
    starts = accumulate(sizes, initial=place(segment["device"], segment["address"]))
    live = [block["state"] == "active_allocated" for block in blocks]
    return dict(compress(zip(starts, sizes), live))


def _device_type():
    if hasattr(torch, "accelerator"):
        current = torch.accelerator.current_accelerator()
        if current is None:
            raise Unsupported("This build of PyTorch knows no accelerator.")
        return current.type
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        raise Unsupported("This build of PyTorch knows no accelerator.")
    return "cuda"
