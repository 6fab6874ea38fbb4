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
import time

from .outcome import (
    Cancelled,
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
    "torch_is_loaded",
]


_STILL_ON_HOST = " The bytes stay complete in host memory; an onload can be tried again."
_DAMAGED = " No tensor was given them; what else was moved is still on the host."


def torch_is_loaded():
    """Whether `import torch` has been completed in this process, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and not getattr(getattr(torch, "__spec__", None), "_initializing", False)


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
            from . import account, cuda, exchange, find, spill, transfer
            from .accelerator import Accelerator, OutOfMemoryError
            from .host import HostBuffer

            account.check_counts()
        except AttributeError as error:  # a name of torch that these modules are built on
            raise Unsupported("PyTorch lacks what moving its memory needs: {}.".format(error)) from None
        self._find, self._account, self._transfer, self._cuda = find, account, transfer, cuda
        self._out_of_memory, self._damaged = OutOfMemoryError, spill.SpillDamaged
        self._accelerator = Accelerator()
        self._exchange = exchange.best(self._accelerator)
        self._host = HostBuffer(page_locked)
        self._moved = None  # the Transfer whose bytes are on the host, while offloaded
        self._lock = threading.Lock()

    @property
    def offloaded(self):
        """Whether bytes are on the host now."""
        return self._moved is not None

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

    def offload(self, cancelled=lambda: False, progress=_ignore, host_limit_bytes=None, spill_room=None):
        """Moves everything whose holders are all known to host memory; the driver gets the GPU memory back.

        `cancelled()` is asked between chunks of the copy, `progress(done_bytes, total_bytes)` told at most five times
        a second; `host_limit_bytes` is the largest host buffer allowed, the one kept included (None: no limit), and
        `spill_room` where the rest may go (None: nowhere).
        Returns `Offloaded`. Raises Cancelled, OutOfHostMemory, NothingToMove or OffloadFailed: with each of them
        every tensor is where it was, with its bytes. Once the host has every byte it goes forward only: a driver that
        fails from then on makes `Offloaded.problem`, and an onload is right all the same.
        """
        with self._lock, self._find.no_user_code():
            if self.offloaded:
                raise NothingToMove("The bytes are on the host already.")
            try:
                return self._offload(_Stopwatch(), cancelled, progress, host_limit_bytes, spill_room)
            except (Cancelled, OutOfHostMemory, NothingToMove) as error:
                kind, arguments = type(error), error.args
            except Exception as error:
                kind, arguments = (
                    OffloadFailed,
                    (_described(error) + " Every tensor is on the GPU as before.",),
                )
            # Out here, so that nothing carries a traceback: its frames would keep the user's tensors alive.
            raise kind(*arguments)

    def onload(self, progress=_ignore):
        """Brings every byte back: allocates and fills everything first, and only then gives it to the tensors.

        Returns `Onloaded`. Raises OutOfDeviceMemory or OnloadFailed; the bytes then stay in host memory, complete
        (unless OnloadFailed says otherwise), and it can be tried again. Does nothing when nothing is offloaded.
        """
        with self._lock, self._find.no_user_code():
            if not self.offloaded:
                return Onloaded(0, {})
            try:
                return self._bring_back(_Stopwatch(), progress)
            except self._out_of_memory as error:
                kind, arguments = OutOfDeviceMemory, (_described(error) + _STILL_ON_HOST,)
            except self._damaged as error:
                kind, arguments = OnloadFailed, (str(error) + _DAMAGED, False)
            except Exception as error:
                kind, arguments = OnloadFailed, (_described(error) + _STILL_ON_HOST,)
            raise kind(arguments[0] + self._cache_returned(), *arguments[1:])

    def _offload(self, watch, cancelled, progress, host_limit_bytes, spill_room):
        accelerator = self._accelerator
        before = {index: (accelerator.uuid(index), usage) for index, usage in accelerator.touched().items()}
        for index in before:
            accelerator.synchronize(index)  # so that what the allocator still waits for counts as free
        decided = self._look(watch)
        if not decided.parts:
            raise NothingToMove("Nothing on the GPU can be moved.", decided.unmovable)
        needed_bytes = self._needed(decided.parts)
        moving = self._transfer.Transfer(decided.parts, self._host, accelerator, self._exchange)
        pace = self._transfer.Pace(moving.nbytes, progress, cancelled)
        pace.check()
        try:
            moving.reserve(host_limit_bytes, spill_room)
            watch.lap("reserve")
            moving.copy_out(pace)
        except BaseException:
            moving.discard()
            raise
        watch.lap("copy")
        freed_bytes, problems = self._commit(moving, before, watch)
        unmovable, unexplained_bytes = self._left(decided, problems)
        return Offloaded(
            moved_bytes=moving.nbytes,
            spilled_bytes=moving.spilled_bytes,
            freed_bytes=freed_bytes,
            needed_bytes=needed_bytes,
            unmovable=unmovable,
            unexplained_bytes=unexplained_bytes,
            host_bytes=self._host.nbytes,
            seconds=watch.laps,
            problem=" ".join(problems) or None,
        )

    def _commit(self, moving, before, watch):
        """Gives the device memory back; ({uuid: freed bytes}, problems). From here on it goes forward only.

        The host has every byte, so an onload is right whatever happens now.
        """
        self._moved = moving
        freed_bytes, problems = dict.fromkeys((uuid for uuid, _ in before.values()), 0), []

        def measure():
            after = self._accelerator.touched()
            for index, (uuid, usage) in before.items():
                freed_bytes[uuid] = usage.reserved_bytes - after[index].reserved_bytes

        for act, lap in (
            (moving.vacate, "commit"),
            (self._accelerator.empty_cache, "free"),
            (measure, "measure"),
        ):
            try:
                act()
            except Exception as error:
                problems.append(_described(error))
            watch.lap(lap)
        return freed_bytes, problems

    def _left(self, decided, problems):
        """What is on the GPU now, and why: the decision, held against the allocator's live blocks."""
        try:
            return self._account.with_the_rest(decided, self._accelerator)
        except Exception as error:
            problems.append(_described(error))
            return decided.unmovable, decided.unexplained_bytes

    def _look(self, watch):
        """The `Account` of this moment. Every reference taken while looking is gone when it returns."""
        decided = self._look_once(watch)
        return self._look_once(watch, in_torchscript=True) if decided.unexplained_bytes else decided

    def _look_once(self, watch, **more):
        found = self._find.find(self._accelerator.type, self._cuda.graph_types(), **more)
        watch.lap("find")
        decided = self._account.account(found, self._accelerator)
        watch.lap("account")
        return decided

    def _needed(self, parts):
        sizes = {}
        for part in parts:
            sizes.setdefault(self._accelerator.uuid(part.index), []).append(part.nbytes)
        return {uuid: self._account.reserve_bytes(of_one) for uuid, of_one in sizes.items()}

    def _cache_returned(self):
        """Gives the driver what a failed onload had allocated, for whoever is next; "" or what went wrong."""
        try:
            self._accelerator.empty_cache()
        except Exception as error:
            return " The GPU memory taken for them could not be given back: " + _described(error)
        return ""

    def _bring_back(self, watch, progress):
        """Can be repeated until it succeeds: it starts from the host's bytes, whatever state the storages are in."""
        moving = self._moved
        try:
            homes = moving.homes()
            watch.lap("allocate")
            moving.copy_in(homes, self._transfer.Pace(moving.nbytes, progress))
            watch.lap("copy")
            moving.move_in(homes)
        except BaseException:
            moving.abandon()
            raise
        self._moved = None
        moving.discard()
        watch.lap("commit")
        return Onloaded(moving.nbytes, watch.laps)


class _Stopwatch:
    def __init__(self):
        self.laps = {}
        self._since = time.monotonic()

    def lap(self, name):
        now = time.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._since
        self._since = now


def _described(error):
    return "{}: {}.".format(type(error).__name__, str(error).split("\n")[0].rstrip("."))
