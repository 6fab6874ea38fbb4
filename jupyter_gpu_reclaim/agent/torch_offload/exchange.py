"""The commit of a move: how storages lose their device memory and get new one, all of them or none.

`BySwap` exchanges the memory of two StorageImpls by pointer (`UntypedStorage._swap_data_ptr_`): tensors, views,
aliases, the graph and version counters keep pointing at the same StorageImpl. `ByResize` is for torch versions
without it: `resize_(0)` and `resize_(n)`.
"""

from itertools import islice, repeat

import torch

from .outcome import Unsupported


def best(accelerator):
    """The better exchange that this torch offers. Raises Unsupported when it has neither."""
    if hasattr(torch.UntypedStorage, "_swap_data_ptr_"):
        return BySwap(accelerator)
    if hasattr(torch.UntypedStorage, "resize_"):
        return ByResize(accelerator)
    raise Unsupported("This version of PyTorch cannot exchange the memory of a storage.")


class _Exchange:
    """What both do alike."""

    def __init__(self, accelerator):
        self._accelerator = accelerator

    def vacate(self, parts):
        """Takes the device memory from every part's storage; their copies on the host stand.

        A failure in between leaves some with it, which is no harm: `move_in` gives all of them new memory.
        """
        self._resize(parts, repeat(0))

    def _resize(self, parts, sizes):
        rest = zip(parts.storages, sizes)
        for index, count in parts.counts:
            with self._accelerator.guard(index):  # resize_ acts on the current device, not on the storage's
                for storage, nbytes in islice(rest, count):
                    storage.resize_(nbytes)

    def _fresh(self, parts):
        """A new storage for each of the parts, in their order. Raises what the allocator raises."""
        homes, sizes = [], iter(parts.sizes)
        for index, count in parts.counts:
            device = self._accelerator.device(index)
            # torch.empty releases the GIL while the driver allocates; UntypedStorage(n) and resize_(n) hold it
            homes += [torch.empty(n, dtype=torch.uint8, device=device) for n in islice(sizes, count)]
        return list(map(torch.Tensor.untyped_storage, homes))


class BySwap(_Exchange):
    """Prepare beside, then swap pointers: there is no moment with half a state."""

    def homes(self, parts):
        """Storages on the device, one a part, to fill with the bytes. Out of memory leaves everything as it was."""
        return self._fresh(parts)

    def move_in(self, parts, homes):
        """Gives each storage its filled home. All or none."""
        self._swap(parts.storages, homes)

    def abandon(self, parts):
        """After `homes` and before `move_in`: back to offloaded. Nothing was done to the storages yet."""

    @staticmethod
    def _swap(storages, others):
        done = []  # a None for each exchange that took place
        try:
            done.extend(map(torch.UntypedStorage._swap_data_ptr_, storages, others))
        except BaseException:
            for storage, other, _ in zip(storages, others, done):
                storage._swap_data_ptr_(other)
            raise


class ByResize(_Exchange):
    """The same with `resize_`, which changes storages one by one."""

    def homes(self, parts):
        """As `BySwap.homes`. Allocates everything once aside first, so that `resize_` finds it in the cache."""
        warm = self._fresh(parts)
        del warm
        self._resize(parts, parts.sizes)
        return parts.storages

    def move_in(self, parts, homes):
        """The homes are the storages themselves."""

    def abandon(self, parts):
        """Empties the storages again: their bytes are complete on the host."""
        self.vacate(parts)
