"""The commit of a move: how storages lose their device memory and get new one, all of them or none.

`BySwap` exchanges the memory of two StorageImpls by pointer (`UntypedStorage._swap_data_ptr_`): tensors, views,
aliases, the graph and version counters keep pointing at the same StorageImpl. `ByResize` is for torch versions
without it: `resize_(0)` and `resize_(n)`.
"""

import torch

from .outcome import Unsupported


def best(accelerator):
    """The better exchange that this torch offers. Raises Unsupported when it has neither."""
    if hasattr(torch.UntypedStorage, "_swap_data_ptr_"):
        return BySwap(accelerator)
    if hasattr(torch.UntypedStorage, "resize_"):
        return ByResize(accelerator)
    raise Unsupported("This version of PyTorch cannot exchange the memory of a storage.")


def bytes_of(storage):
    """A uint8 view over a whole storage. Copies through it release the GIL, those of `storage.copy_` do not."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _fresh(accelerator, part):
    # torch.empty releases the GIL while the driver allocates; UntypedStorage(n) and resize_(n) hold it
    return torch.empty(part.nbytes, dtype=torch.uint8, device=accelerator.device(part.index))


class BySwap:
    """Prepare beside, then swap pointers: there is no moment with half a state."""

    def __init__(self, accelerator):
        self._accelerator = accelerator

    def vacate(self, parts):
        """Takes the device memory from every part's storage; their copies on the host stand. All or none."""
        self._swap(parts, [torch.UntypedStorage(0, device=self._accelerator.device(p.index)) for p in parts])

    def homes(self, parts):
        """uint8 device tensors, one a part, to fill with the bytes. Out of memory leaves everything as it was."""
        return [_fresh(self._accelerator, part) for part in parts]

    def move_in(self, parts, homes):
        """Gives each storage its filled home. All or none."""
        self._swap(parts, [home.untyped_storage() for home in homes])

    def abandon(self, parts):
        """After `homes` and before `move_in`: back to offloaded. Nothing was done to the storages yet."""

    @staticmethod
    def _swap(parts, others):
        done = []
        try:
            for part, other in zip(parts, others):
                part.storage._swap_data_ptr_(other)
                done.append((part, other))
        except BaseException:
            for part, other in done:
                part.storage._swap_data_ptr_(other)
            raise


class ByResize:
    """The same with `resize_`, which changes storages one by one, and on the current device unless told."""

    def __init__(self, accelerator):
        self._accelerator = accelerator

    def vacate(self, parts):
        """Empties the storages one by one; a failure in between leaves some full, which `homes` does not mind."""
        for part in parts:
            self._resize(part, 0)

    def homes(self, parts):
        """As `BySwap.homes`. Allocates everything once aside first, so that `resize_` finds it in the cache."""
        warm = [_fresh(self._accelerator, part) for part in parts]
        del warm
        for part in parts:
            self._resize(part, part.nbytes)
        return [bytes_of(part.storage) for part in parts]

    def move_in(self, parts, homes):
        """The homes are the storages themselves."""

    def abandon(self, parts):
        """Empties the storages again: their bytes are complete on the host."""
        for part in parts:
            self._resize(part, 0)

    def _resize(self, part, nbytes):
        with self._accelerator.guard(
            part.index
        ):  # resize_ allocates on the current device, not on the storage's
            part.storage.resize_(nbytes)
