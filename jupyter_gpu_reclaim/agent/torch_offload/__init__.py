"""Moves the storages that torch owns to host memory and back, in two phases each way: prepare, then commit.

    mechanism = TorchOffload()              # once torch is loaded; raises Unsupported(reason)
    mechanism.offload(cancelled, progress)  # GPU memory back to the driver
    mechanism.onload(progress)              # every tensor as it was, bit for bit

The caller promises that no user code runs from `offload` to the end of `onload` (the kernel's gate is closed): a
tensor that is touched while its bytes are away ends the process. Automatic garbage collection must be off for that
time, since it runs users' `__del__`.

Importing this package does not import torch; creating a `TorchOffload` needs torch already imported. What no one can
see from here, and what is therefore not protected: raw addresses that a library took with `tensor.data_ptr()` and
keeps past the call.
"""

import sys
import threading

from .outcome import (
    Cancelled,
    CopyDamaged,
    NothingToMove,
    Offloaded,
    OffloadFailed,
    Onloaded,
    OnloadFailed,
    OutOfDeviceMemory,
    OutOfHostMemory,
    SpillRoom,
    Unsupported,
)

__all__ = [
    "Cancelled",
    "NothingToMove",
    "OffloadFailed",
    "Offloaded",
    "OnloadFailed",
    "Onloaded",
    "OutOfDeviceMemory",
    "OutOfHostMemory",
    "SpillRoom",
    "TorchOffload",
    "Unsupported",
    "failed_allocation",
    "gpu_with_room",
    "torch_is_loaded",
]


_STILL_ON_GPU = " Every tensor is on the GPU as before."
_STILL_ON_HOST = " The bytes stay complete in host memory; an onload can be tried again."
_DAMAGED = " No tensor was given them; what else was moved is still on the host."


def torch_is_loaded():
    """Whether `import torch` has been completed in this process, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and not getattr(getattr(torch, "__spec__", None), "_initializing", False)


def gpu_with_room(index, nbytes):
    """The UUID of torch's GPU of that index, or None if so many bytes more than it holds there could never fit on it.

    Raises Unsupported when torch does not tell.
    """
    if not torch_is_loaded():
        raise Unsupported("PyTorch is not loaded.")
    from .accelerator import Accelerator

    accelerator = Accelerator()
    usage = accelerator.touched().get(index)
    held = usage.reserved_bytes if usage else 0
    return accelerator.uuid(index) if held + nbytes <= accelerator.total_bytes(index) else None


def failed_allocation(error):
    """(index of the GPU, bytes asked of the driver) if this is torch's out-of-memory error and says so, else None."""
    if not torch_is_loaded():
        return None
    from . import out_of_memory

    return out_of_memory.failed_allocation(error)


def _ignore(done_bytes, total_bytes):
    """No progress wanted."""


class TorchOffload:
    """The mechanism for one process; one instance, used from one worker thread (calls are serialised).

    Raises Unsupported with one sentence when this torch lacks something that the mechanism needs.
    """

    def __init__(self, page_locked=False):
        if not torch_is_loaded():
            raise Unsupported("PyTorch is not loaded.")
        try:
            from . import find, spill
            from .accelerator import OutOfMemoryError
            from .engine import Engine, described

            self._engine = Engine(page_locked)
        except AttributeError as error:  # a name of torch that these modules are built on
            raise Unsupported("PyTorch lacks what moving its memory needs: {}.".format(error)) from None
        self._no_user_code, self._described = find.no_user_code, described
        self._out_of_memory, self._spill_damaged = OutOfMemoryError, spill.SpillDamaged
        self._accelerator, self._host = self._engine.accelerator, self._engine.host
        self._lock = threading.Lock()

    @property
    def framework(self):
        """Whose memory this moves, with its version."""
        return "torch " + str(sys.modules["torch"].__version__)

    @property
    def offloaded(self):
        """Whether bytes are on the host now."""
        return self._engine.moved is not None

    @property
    def host_bytes(self):
        """Size of the host buffer held, in bytes. It is kept after an onload: see `release_host_buffer`."""
        return self._host.nbytes

    def gpus(self):
        """{uuid: {"name", "index", "allocated_bytes", "reserved_bytes"}} of the devices torch has held memory on."""
        return {
            self._accelerator.uuid(index): {
                "name": self._accelerator.describe(index)[1],
                "index": index,
                "allocated_bytes": usage.allocated_bytes,
                "reserved_bytes": usage.reserved_bytes,
            }
            for index, usage in self._accelerator.touched().items()
        }

    def counters(self):
        """A hashable that changes whenever something allocates or frees on the GPU, our own moves included."""
        return tuple((index, usage.counts) for index, usage in self._accelerator.touched().items())

    def release_host_buffer(self):
        """Gives the kept host buffer back to the host, unless it holds bytes; the next offload is slower for it."""
        with self._lock:
            if not self.offloaded:
                self._host.release()

    def prepare(self, stopped=lambda: False, host_limit_bytes=None):
        """Has the host give, page by page, the memory for what is on the GPU now, so that no offload waits for it.

        Nobody is in the way of it: user code may run. `stopped()` is asked every few MiB and ends it. Takes nothing
        beyond `host_limit_bytes`; what is not there then, the offload says.
        """
        with self._lock:
            if self.offloaded:
                return
            nbytes = sum(usage.allocated_bytes for usage in self._accelerator.touched().values())
            if host_limit_bytes is None or nbytes <= host_limit_bytes:
                self._host.reserve(nbytes)
                self._host.touch(stopped)

    def offload(
        self,
        cancelled=lambda: False,
        progress=_ignore,
        host_limit_bytes=None,
        spill_room=None,
        verify=True,
    ):
        """Moves everything whose holders are all known to host memory; the driver gets the GPU memory back.

        `cancelled()` is asked between chunks of the copy, `progress(done_bytes, total_bytes)` told at most five times
        a second; `host_limit_bytes` is the largest host buffer allowed, the one kept included (None: no limit), and
        `spill_room` where the rest may go (None: nowhere). With `verify` a checksum of every byte is held against its
        copy on the host now, and against what comes back at the onload.
        Returns `Offloaded`. Raises Cancelled, OutOfHostMemory, NothingToMove or OffloadFailed: with each of them
        every tensor is where it was, with its bytes. Once the host has every byte it goes forward only: a driver that
        fails from then on makes `Offloaded.problem`, and an onload is right all the same.
        """
        with self._lock, self._no_user_code():
            if self.offloaded:
                raise NothingToMove("The bytes are on the host already.")
            try:
                return self._engine.offload(cancelled, progress, host_limit_bytes, spill_room, verify)
            except (Cancelled, OutOfHostMemory, NothingToMove) as error:
                kind, arguments = type(error), error.args
            except CopyDamaged as error:
                kind, arguments = OffloadFailed, (str(error) + _STILL_ON_GPU, self._uuid(error))
            except Exception as error:
                kind, arguments = OffloadFailed, (self._described(error) + _STILL_ON_GPU,)
            # Out here, so that nothing carries a traceback: its frames would keep the user's tensors alive.
            raise kind(*arguments)

    def onload(self, progress=_ignore):
        """Brings every byte back: allocates and fills everything first, and only then gives it to the tensors.

        Returns `Onloaded`. Raises OutOfDeviceMemory or OnloadFailed; the bytes then stay in host memory, complete
        (unless OnloadFailed says otherwise), and it can be tried again. Does nothing when nothing is offloaded.
        """
        with self._lock, self._no_user_code():
            if not self.offloaded:
                return Onloaded(0, {})
            try:
                return self._engine.onload(progress)
            except self._out_of_memory as error:
                kind, arguments = OutOfDeviceMemory, (self._described(error) + _STILL_ON_HOST,)
            except self._spill_damaged as error:
                kind, arguments = OnloadFailed, (str(error) + _DAMAGED, False)
            except CopyDamaged as error:
                after = _STILL_ON_HOST if error.memory_intact else _DAMAGED
                kind, arguments = OnloadFailed, (str(error) + after, error.memory_intact, self._uuid(error))
            except Exception as error:
                kind, arguments = OnloadFailed, (self._described(error) + _STILL_ON_HOST,)
            raise kind(arguments[0] + self._cache_returned(), *arguments[1:])

    def _uuid(self, damage):
        return self._accelerator.uuid(damage.index)

    def _cache_returned(self):
        """Gives the driver what a failed onload had allocated, for whoever is next; "" or what went wrong."""
        try:
            self._accelerator.empty_cache()
        except Exception as error:
            return " The GPU memory taken for them could not be given back: " + self._described(error)
        return ""
