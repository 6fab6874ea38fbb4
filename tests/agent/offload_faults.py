"""Scenarios: something goes wrong, or the caller changes its mind, at every place of an offload and an onload."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from offload_training import DEVICE, Training, same

from jupyter_gpu_reclaim.agent.torch_offload import batches
from jupyter_gpu_reclaim.agent.torch_offload.exchange import ByResize, BySwap

FAILED = 999  # the scripted fault's code


@contextmanager
def small_batches(nbytes: int = 2048) -> Iterator[None]:
    """A little data in as many copies as a thousand times as much: enough of them to fail in the middle."""
    ordinary, batches.BATCH_BYTES = batches.BATCH_BYTES, nbytes
    try:
        yield
    finally:
        batches.BATCH_BYTES = ordinary


def _trained() -> tuple[Training, torch.Tensor]:
    training = Training()
    training.step(0)
    training.optimizer.zero_grad()
    torch.manual_seed(5)
    return training, training.net(torch.randn(16, 3, 8, 8).to(DEVICE)).square().mean()


class _Subject:
    """A trained network with a live graph, and what it must look like whatever happens."""

    def __init__(self, bench: Any):
        self.bench = bench
        twin, loss = _trained()
        loss.backward()
        self.gradients = [p.grad.cpu() for p in twin.net.parameters()]
        del twin, loss
        self.training, self.loss = _trained()
        self.expected = [t.detach().cpu().clone() for t in self.training.state()]
        self.addresses = [t.data_ptr() for t in self.training.state()]
        self.allocated = bench.allocated()

    def untouched(self) -> bool:
        """Everything is on the GPU, where it was, with its bytes."""
        return (
            not self.bench.mechanism.offloaded
            and [t.data_ptr() for t in self.training.state()] == self.addresses
            and same(self.training.state(), self.expected)
            and self.bench.allocated() == self.allocated
        )

    def as_before(self) -> bool:
        """Everything is on the GPU with its bytes, and the graph gives the gradients that a twin's gave."""
        equal = not self.bench.mechanism.offloaded and same(self.training.state(), self.expected)
        self.loss.backward()
        return equal and same([p.grad for p in self.training.net.parameters()], self.gradients)


def _raised(call: Any, *arguments: Any, **options: Any) -> Any:
    try:
        call(*arguments, **options)
    except Exception as error:
        return error
    return None


def _failed_offload(bench: Any, fault: Any = lambda: None, **arguments: Any) -> dict[str, Any]:
    subject = _Subject(bench)
    fault()
    error = _raised(bench.offload, **arguments)
    bench.board.clear_faults()
    untouched = subject.untouched()
    bench.cycle()
    return {
        "error": type(error).__name__,
        "message": str(error),
        "untouched": untouched,
        "works_after": subject.as_before(),
    }


def cancelled_in_the_copy(bench: Any) -> dict[str, Any]:
    """The caller wants to stop once everything is copied: the last moment at which nothing has changed."""
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 2

    return {**_failed_offload(bench, cancelled=cancelled), "asked": len(asked)}


def cancelled_at_once(bench: Any) -> dict[str, Any]:
    """The caller wants to stop before anything is copied."""
    return _failed_offload(bench, cancelled=lambda: True)


def copy_fails(bench: Any) -> dict[str, Any]:
    """A copy to the host fails in the middle."""
    with small_batches():
        return _failed_offload(bench, lambda: bench.board.set_fault("copy", FAILED, skip=40))


def device_is_broken(bench: Any) -> dict[str, Any]:
    """Waiting for the device fails: some earlier kernel of the user's went wrong."""
    return _failed_offload(bench, lambda: bench.board.set_fault("synchronize", FAILED))


def host_limit(bench: Any) -> dict[str, Any]:
    """Less host memory is allowed than the bytes need."""
    return _failed_offload(bench, host_limit_bytes=1000)


def progress_fails(bench: Any) -> dict[str, Any]:
    """The caller's own callback raises."""

    def progress(done_bytes: int, total_bytes: int) -> None:
        raise ValueError("the link is gone")

    def slow() -> None:
        bench.board.set_fault("copy", 0, delay=0.3, skip=20, count=1)

    with small_batches():
        return _failed_offload(bench, slow, progress=progress)


def allocated_meanwhile(bench: Any) -> dict[str, Any]:
    """Somebody allocates while the bytes are being copied: nobody had decided that this block stays."""
    kept = torch.arange(5000.0).to(DEVICE)
    late: list[torch.Tensor] = []
    result = bench.offload(progress=lambda *_: late.append(torch.zeros(3000, device=DEVICE)))
    facts = {
        "moved_bytes": result.moved_bytes,
        "unmovable": result.unmovable,
        "unexplained_bytes": result.unexplained_bytes,
        "late": [tensor.cpu().tolist() == [0] * 3000 for tensor in late],
    }
    bench.onload()
    return {**facts, "kept": kept.cpu().tolist() == list(range(5000)), "next": bench.cycle().unmovable}


def driver_fails_after_the_commit(bench: Any) -> dict[str, Any]:
    """Giving the cache back fails when the bytes are on the host already."""
    subject = _Subject(bench)
    bench.board.set_fault("empty_cache", FAILED)
    result = bench.offload()
    offloaded = bench.mechanism.offloaded
    bench.board.clear_faults()
    bench.onload()
    return {
        "problem": result.problem,
        "freed": sum(result.freed_bytes.values()),
        "offloaded": offloaded,
        "as_before": subject.as_before(),
    }


def _failed_onload(bench: Any, fault: Any) -> dict[str, Any]:
    subject = _Subject(bench)
    bench.offload()
    fault()
    errors, reserved = [], []
    for _ in range(2):
        errors.append(_raised(bench.onload))
        reserved.append(bench.reserved())
    offloaded = bench.mechanism.offloaded
    again = type(_raised(bench.offload)).__name__
    bench.board.clear_faults()
    bench.board.set_other_used(0)
    bench.onload()
    return {
        "errors": [type(error).__name__ for error in errors],
        "message": str(errors[0]),
        "intact": [getattr(error, "memory_intact", True) for error in errors],
        "reserved": reserved,
        "offloaded": offloaded,
        "offload_again": again,
        "as_before": subject.as_before(),
    }


def no_room_at_all(bench: Any) -> dict[str, Any]:
    """Strangers have taken the whole device."""
    gpu = bench.board.gpus()[0]
    return _failed_onload(bench, lambda: bench.board.set_other_used(gpu.total_bytes))


def room_runs_out(bench: Any) -> dict[str, Any]:
    """Memory runs out half-way, both times it is tried."""
    return _failed_onload(bench, lambda: bench.board.set_fault("alloc", FAILED, skip=40))


def room_runs_out_by_resize(bench: Any) -> dict[str, Any]:
    """The same for torch versions that cannot swap: both in the trial allocation and (later) in the storages."""
    with _by_resize(bench):
        return room_runs_out(bench)


def resize_itself_runs_out(bench: Any) -> dict[str, Any]:
    """As above, but the trial allocation succeeds, and the storages find no room."""
    with _by_resize(bench):
        subject = _Subject(bench)
        bench.offload()
        parts = len(bench.mechanism._engine.moved.parts.storages)
        bench.board.set_fault("alloc", FAILED, skip=parts + 30)
        error, reserved = _raised(bench.onload), bench.reserved()
        bench.board.clear_faults()
        bench.onload()
        return {
            "error": type(error).__name__,
            "reserved": reserved,
            "as_before": subject.as_before(),
        }


class _by_resize:
    def __init__(self, bench: Any):
        self._mechanism = bench.mechanism

    def __enter__(self) -> None:
        self._mechanism._engine._exchange = ByResize(self._mechanism._accelerator)

    def __exit__(self, *_: object) -> None:
        self._mechanism._engine._exchange = BySwap(self._mechanism._accelerator)


def copy_back_fails(bench: Any) -> dict[str, Any]:
    """A copy to the device fails in the middle, both times it is tried."""
    with small_batches():
        return _failed_onload(bench, lambda: bench.board.set_fault("copy", FAILED, skip=30))


def copy_back_fails_by_resize(bench: Any) -> dict[str, Any]:
    """The same for torch versions that cannot swap."""
    with _by_resize(bench):
        return copy_back_fails(bench)


def swap_fails(bench: Any) -> dict[str, Any]:
    """An exchange that fails at its last storage is undone."""
    tensors = [torch.full((100,), float(i), device=DEVICE) for i in range(5)]
    addresses = [t.data_ptr() for t in tensors]
    others: list[Any] = [torch.UntypedStorage(0, device=DEVICE) for _ in range(4)]
    storages = [t.untyped_storage() for t in tensors]
    error = _raised(BySwap._swap, storages, [*others, "no storage"])
    return {
        "error": type(error).__name__,
        "addresses_kept": [t.data_ptr() for t in tensors] == addresses,
        "values": [t[99].item() for t in tensors],
    }


def nothing_to_move(bench: Any) -> dict[str, Any]:
    """Once with nothing on the device, once with only what must stay."""
    empty = _raised(bench.offload)
    tensor = torch.ones(1000, device=DEVICE)
    capsule = torch.utils.dlpack.to_dlpack(tensor)
    only_unmovable = _raised(bench.offload)
    del capsule
    return {
        "errors": [type(error).__name__ for error in (empty, only_unmovable)],
        "unmovable": [error.unmovable for error in (empty, only_unmovable)],
        "onload_moved": bench.onload().moved_bytes,
    }


def exceptions_hold_no_tensors(bench: Any) -> dict[str, Any]:
    """The caller keeps every exception; the user deletes the tensors."""
    kept = []
    tensor = torch.ones(10000, device=DEVICE)
    kept.append(_raised(bench.mechanism.offload, cancelled=lambda: True))
    kept.append(_raised(bench.mechanism.offload, host_limit_bytes=1))
    bench.board.set_fault("copy", FAILED)
    kept.append(_raised(bench.mechanism.offload))
    bench.board.clear_faults()
    bench.offload()
    bench.board.set_fault("copy", FAILED)
    kept.append(_raised(bench.mechanism.onload))
    bench.board.clear_faults()
    bench.onload()
    del tensor
    gc.disable()
    try:
        return {"kept": [type(error).__name__ for error in kept], "allocated": bench.allocated()}
    finally:
        gc.enable()


def delayed_copies(bench: Any) -> dict[str, Any]:
    """Copies that the user started without waiting are still under way when the offload begins."""
    bench.board.delay_copies()
    try:
        source = torch.randn(100_000, generator=torch.Generator().manual_seed(3))
        target = torch.empty(100_000, device=DEVICE).copy_(source, non_blocking=True)
        bench.cycle()
        return {"equal": same([target], [source])}
    finally:
        bench.board.delay_copies(False)


def host_buffer(bench: Any) -> dict[str, Any]:
    """Kept for the next episode, grown when that needs more, never while it holds bytes, given back on request."""
    mechanism = bench.mechanism
    mechanism.release_host_buffer()
    sizes = [mechanism.host_bytes]
    small = torch.ones(1 << 20, device=DEVICE)
    for _ in range(2):
        bench.offload()
        mechanism.release_host_buffer()  # refused: it holds the bytes
        sizes.append(mechanism.host_bytes)
        bench.onload()
    large = torch.ones(4 << 20, device=DEVICE)
    bench.cycle()
    sizes.append(mechanism.host_bytes)
    mechanism.release_host_buffer()
    sizes.append(mechanism.host_bytes)
    return {"sizes": sizes, "equal": bool((small == 1).all()) and bool((large == 1).all())}


def telling(bench: Any) -> dict[str, Any]:
    """What the agent asks for all the time, before the device is touched and after."""
    told: list[tuple[int, int]] = []
    before = bench.mechanism.counters()
    tensor = torch.ones(40 << 20, device=DEVICE)
    after = bench.mechanism.counters()
    quiet = bench.mechanism.counters()
    hash(after)
    bench.board.set_fault("copy", 0, delay=0.25)
    bench.offload(progress=lambda done, total: told.append((done, total)))
    bench.board.clear_faults()
    bench.onload()
    (gpu,) = [gpu for gpu in bench.mechanism.gpus().values() if gpu["index"] == 0]
    return {
        "at_start": bench.at_start,
        "moved_counters": [before != after, after != quiet],
        "told": told,
        "nbytes": tensor.untyped_storage().nbytes(),
        "gpu": gpu,
    }


def garbage(bench: Any) -> dict[str, Any]:
    """How many objects only the collector could free, after a cycle and much asking with the collector off."""
    tensor = torch.ones(1000, device=DEVICE, requires_grad=True) * 2
    bench.cycle()
    gc.collect()
    gc.disable()
    try:
        bench.mechanism.offload()
        for _ in range(100):
            bench.mechanism.counters()
            bench.mechanism.gpus()
        bench.mechanism.onload()
        return {"unreachable": gc.collect(), "value": tensor[0].item()}
    finally:
        gc.enable()
