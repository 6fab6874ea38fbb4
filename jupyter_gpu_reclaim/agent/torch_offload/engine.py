"""The steps of an offload and of an onload, in their order. Errors leave as they come: `TorchOffload` words them."""

import time
from itertools import islice

from . import account, cuda, exchange, find, transfer
from .accelerator import Accelerator
from .host import HostBuffer
from .needed import reserve_bytes
from .outcome import NothingToMove, Offloaded, Onloaded


class Engine:
    """Of one process, for one thread at a time, inside `no_user_code()`. Raises Unsupported."""

    def __init__(self, page_locked=False):
        account.check_counts()
        self.accelerator = Accelerator()
        self.host = HostBuffer(page_locked)
        self.moved = None  # the Transfer whose bytes are on the host, while offloaded
        self._exchange = exchange.best(self.accelerator)

    def offload(self, cancelled, progress, host_limit_bytes, spill_room, verify):
        """See `TorchOffload.offload`. Raises CopyDamaged, too, and what torch or a callback raises."""
        watch, accelerator = _Stopwatch(), self.accelerator
        before = {index: (accelerator.uuid(index), usage) for index, usage in accelerator.touched().items()}
        for index in before:
            accelerator.synchronize(index)  # so that what the allocator still waits for counts as free
        decided = self._look(watch)
        if not decided.parts.storages:
            raise NothingToMove("Nothing on the GPU can be moved.", decided.unmovable)
        needed_bytes = self._needed(decided.parts)
        moving = transfer.Transfer(decided.parts, self.host, accelerator, self._exchange, verify)
        pace = transfer.Pace(moving.nbytes, progress, cancelled)
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
            host_bytes=self.host.nbytes,
            seconds=watch.laps,
            problem=" ".join(problems) or None,
        )

    def onload(self, progress):
        """See `TorchOffload.onload`. Can be repeated until it succeeds: it starts from the host's bytes, whatever state
        the storages are in. Raises CopyDamaged, SpillDamaged, and what torch raises.
        """
        watch, moving = _Stopwatch(), self.moved
        try:
            homes = moving.homes()
            watch.lap("allocate")
            moving.copy_in(homes, transfer.Pace(moving.nbytes, progress))
            watch.lap("copy")
            if moving.is_verified:
                self.accelerator.empty_cache()  # what the checksums took beside the bytes
                watch.lap("free")
            moving.move_in(homes)
        except BaseException:
            moving.abandon()
            raise
        self.moved = None
        moving.discard()
        watch.lap("commit")
        return Onloaded(moving.nbytes, watch.laps)

    def _look(self, watch):
        """The `Account` of this moment. Every reference taken while looking is gone when it returns."""
        decided = self._look_once(watch, thorough=False)
        return self._look_once(watch, thorough=True) if decided.unmovable else decided

    def _look_once(self, watch, thorough):
        found = find.find(self.accelerator.type, cuda.graph_types(), thorough)
        watch.lap("find")
        decided = account.account(found, self.accelerator)
        watch.lap("account")
        return decided

    def _needed(self, parts):
        sizes = iter(parts.sizes)
        return {self.accelerator.uuid(i): reserve_bytes(islice(sizes, count)) for i, count in parts.counts}

    def _commit(self, moving, before, watch):
        """Gives the device memory back; ({uuid: freed bytes}, problems). From here on it goes forward only.

        The host has every byte, so an onload is right whatever happens now.
        """
        self.moved = moving
        freed_bytes, problems = dict.fromkeys((uuid for uuid, _ in before.values()), 0), []

        def measure():
            after = self.accelerator.touched()
            for index, (uuid, usage) in before.items():
                freed_bytes[uuid] = usage.reserved_bytes - after[index].reserved_bytes

        for act, lap in (
            (moving.vacate, "commit"),
            (self.accelerator.empty_cache, "free"),
            (measure, "measure"),
        ):
            try:
                act()
            except Exception as error:
                problems.append(described(error))
            watch.lap(lap)
        return freed_bytes, problems

    def _left(self, decided, problems):
        """What is on the GPU now, and why: the decision, held against the allocator's live blocks."""
        try:
            return account.with_the_rest(decided, self.accelerator)
        except Exception as error:
            problems.append(described(error))
            return decided.unmovable, decided.unexplained_bytes


class _Stopwatch:
    def __init__(self):
        self.laps = {}
        self._since = time.monotonic()

    def lap(self, name):
        now = time.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._since
        self._since = now


def described(error):
    """An error of torch's as one sentence."""
    return "{}: {}.".format(type(error).__name__, str(error).split("\n")[0].rstrip("."))
