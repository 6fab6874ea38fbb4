"""The trap table's rig: an entry is a generator that runs on the GPU and, as its twin, on the CPU.

    def views(on: Place) -> Holding:
        '''What is held, and how.'''
        base = on.values()
        view = base[3:]
        yield [base, view]        # here the GPU memory goes and comes back; what is yielded is looked at around it
        view.mul_(2)
        return [base, view]       # what the notebook goes on to compute

An entry that must leave no Python reference to a tensor yields nothing. The twin has no cycle, so whatever the entry
yields or returns (tensors, numbers, messages, counts of calls into the user's code) must come out the same without it.
"""

from __future__ import annotations

import ctypes
import hashlib
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.dlpack import to_dlpack

DEVICE = "simgpu"
N = 3000
NBYTES = 12000  # of what `Place.values` gives
BLOCK = 12288  # what the allocator counts for it


class Place:
    """Where an entry runs: with a `bench` on the simulated GPU, where its memory is moved, without one as its twin."""

    def __init__(self, bench: Any = None, device: str = "cpu"):
        self.bench = bench
        self.gpu = bench is not None
        self.device = DEVICE if self.gpu else device

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a host tensor, here."""
        return tensor.to(self.device, copy=True)

    def values(self, seed: int = 1) -> torch.Tensor:
        """N normal numbers, the same for the same seed."""
        return self.put(torch.randn(N, generator=torch.Generator().manual_seed(seed)))

    def leaf(self, seed: int = 1) -> torch.Tensor:
        """The same, as a leaf that wants a gradient."""
        return self.values(seed).requires_grad_()

    def ones(self, *shape: int) -> torch.Tensor:
        """Ones."""
        return torch.ones(shape, device=self.device)

    def in_this_thread(self) -> None:
        """The mechanism is to work in the entry's own thread, under whatever modes are on there."""
        if self.gpu:
            self.bench.in_this_thread = True

    def in_a_pool_of_its_own(self, tensor: torch.Tensor) -> None:
        """Let the allocator's list, which knows no pools on this device, say so of the tensor's block."""
        if self.gpu:
            self.bench.pooled_address = tensor.untyped_storage().data_ptr()


@contextmanager
def warnings_allowed() -> Iterator[None]:
    """For what torch itself warns of, such as TorchScript's and anomaly detection's use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


Holding = Generator[list[Any] | None, None, list[Any] | None]
Scenario = Callable[[Place], Holding]


@dataclass(frozen=True)
class Entry:
    """A line of the table: whether the bytes move, or how many stay for which reasons, as the allocator counts them.

    `stays` empty: everything moves. `beside_stays`: what lies beside it does not move either. `spoils`: the process is
    left with bytes that nobody can free. `twin`: where the twin runs, on the CPU unless the device's kernels round
    otherwise.
    """

    scenario: Scenario
    stays: dict[str, int] = field(default_factory=dict)
    beside_stays: bool = False
    spoils: bool = False
    twin: str = "cpu"

    @property
    def name(self) -> str:
        """What is held, and how, in words; docs/engine.md has the same."""
        return self.scenario.__name__.replace("_", " ")


def tried(bench: Any, entry: Entry) -> dict[str, Any]:
    """Facts of one entry: what went, what stayed, and every difference from the twin that was left alone."""
    twin = _Run(entry.scenario, Place(device=entry.twin))
    expected = [*twin.until_the_cycle(), *twin.to_the_end()]
    run = _Run(entry.scenario, Place(bench))
    beside = _Run(_beside, Place(bench))
    beside_before, before = beside.until_the_cycle(), run.until_the_cycle()
    addresses = run.addresses()
    outcome = bench.offload_or_refusal()
    stayed = {at: address for at, address in run.addresses().items() if address and address == addresses[at]}
    facts = {
        "unmovable": outcome.unmovable,
        "unexplained_bytes": getattr(outcome, "unexplained_bytes", None),
        "beside_went": beside.addresses() == {0: 0},
        "stayed": len(stayed),
        "readable": all(run.look([at])[0]["bits"] == before[at]["bits"] for at in stayed),
    }
    if bench.mechanism.offloaded:
        bench.onload()
    facts["changed_by_the_cycle"] = differences([*before, *beside_before], [*run.look(), *beside.look()])
    facts["unlike_the_twin"] = differences(_unversioned(expected), _unversioned([*before, *run.to_the_end()]))
    return facts


def exported(bench: Any, entry: Entry) -> dict[str, Any]:
    """The same with every tensor that the entry keeps exported through DLPack: how many there are, how many moved.

    An alias of each is exported and has no other holder than its capsule.
    """
    run = _Run(entry.scenario, Place(bench))
    run.until_the_cycle()
    capsules = [to_dlpack(tensor.detach()) for tensor in run.exportable()]
    addresses = {tensor.data_ptr() for tensor in run.exportable()}
    bench.offload_or_refusal()
    left = {tensor.data_ptr() for tensor in run.exportable()}
    if bench.mechanism.offloaded:
        bench.onload()
    del capsules
    run.to_the_end()
    return {"exported": len(addresses), "moved": len(addresses - left)}


def _beside(on: Place) -> Holding:
    """What is always there too, and always moves."""
    yield [on.values(99)]
    return []


# Looks happen in a thread of their own, where none of the modes is on that an entry has switched on in its own.
_observer = ThreadPoolExecutor(1)


class _Run:
    def __init__(self, scenario: Scenario, place: Place):
        self.place = place
        self._generator = scenario(place)
        self._kept: list[Any] = []

    def until_the_cycle(self) -> list[Any]:
        self._kept = next(self._generator) or []
        return self.look()

    def look(self, places: list[int] | None = None) -> list[Any]:
        """The portrait of what is kept, or of some of it."""
        things = self._kept if places is None else [self._kept[at] for at in places]
        return _observer.submit(portrait, things).result()

    def exportable(self) -> list[torch.Tensor]:
        """What is kept on the device and DLPack has a way to tell of."""
        tensors = [thing for thing in self._kept if isinstance(thing, torch.Tensor)]
        return [
            t
            for t in tensors
            if t.device.type == DEVICE and t.numel() and not t.is_conj() and t.dtype != torch.float8_e4m3fn
        ]

    def addresses(self) -> dict[int, int]:
        """{place in what is kept: address} of device memory; 0 for what is away."""
        return _observer.submit(_addresses, self._kept).result()

    def to_the_end(self) -> list[Any]:
        self._kept = []
        try:
            next(self._generator)
        except StopIteration as end:
            return _observer.submit(portrait, end.value or []).result()
        raise AssertionError("an entry yields once")


def _addresses(things: list[Any]) -> dict[int, int]:
    return {
        at: thing.untyped_storage().data_ptr()
        for at, thing in enumerate(things)
        if isinstance(thing, torch.Tensor) and thing.device.type == DEVICE
    }


def portrait(things: list[Any]) -> list[Any]:
    """Everything that a wrong byte, shape or counter could show in, device aside; equal lists: equal to the bit.

    Storages are numbered, so that what shares memory shares a number; their bytes are taken whole.
    """
    numbers: dict[int, int] = {}
    return [_portrait(thing, numbers) for thing in things]


def _portrait(thing: Any, numbers: dict[int, int]) -> Any:
    if isinstance(thing, torch.UntypedStorage):
        return {"bits": _digest(thing), "nbytes": thing.nbytes()}
    if not isinstance(thing, torch.Tensor):
        return thing
    storage = thing.untyped_storage()
    return {
        "kind": [str(thing.dtype), thing.requires_grad, thing.is_leaf],
        "place": [list(thing.shape), list(thing.stride()), thing.storage_offset()],
        "storage": [numbers.setdefault(storage._cdata, len(numbers)), storage.nbytes()],
        "version": None if thing.is_inference() else thing._version,
        "bits": _digest(storage),
    }


def _digest(storage: torch.UntypedStorage) -> str:
    data = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).cpu()
    return hashlib.sha256(ctypes.string_at(data.data_ptr(), data.numel())).hexdigest()


def _unversioned(portraits: list[Any]) -> list[Any]:
    """Without version counters: what was made on the host and copied to a device has had another life before."""
    return [{**one, "version": None} if isinstance(one, dict) else one for one in portraits]


def differences(left: list[Any], right: list[Any]) -> list[Any]:
    """Where two lists of portraits differ: [place, left, right] of each."""
    if len(left) != len(right):
        return [["number of things", len(left), len(right)]]
    return [[at, a, b] for at, (a, b) in enumerate(zip(left, right, strict=True)) if a != b]
