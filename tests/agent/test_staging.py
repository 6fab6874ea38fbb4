"""Copies through page-locked memory, at the boundary of `torch.cuda`: it is replaced by the least that answers as its
documentation says, and CPU tensors stand for the device's. Nothing here proves anything about a GPU, but for the last.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jupyter_gpu_reclaim.agent.torch_offload import TorchOffload, cuda
from jupyter_gpu_reclaim.agent.torch_offload.batches import BATCH_BYTES
from jupyter_gpu_reclaim.agent.torch_offload.staging import Staged, Straight, best


class Cuda:
    """What was asked of CUDA, in order: locks as {address: bytes}, and the steps of every stream."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}
        self.most_locked = 0
        self.steps: list[str] = []
        self.refuses = False
        self.fails = False

    def lock(self, address: int, nbytes: int, flags: int) -> int:
        """cudaHostRegister: 0, or an error's code."""
        if self.refuses:
            return 2
        self.locked[address] = nbytes
        self.most_locked = max(self.most_locked, len(self.locked))
        return 0

    def unlock(self, address: int) -> int:
        """cudaHostUnregister."""
        del self.locked[address]
        return 0

    def stream(self, device: torch.device) -> Any:
        """torch.cuda.Stream."""
        return SimpleNamespace(synchronize=lambda: self.steps.append("wait"))

    @contextmanager
    def using(self, stream: Any) -> Iterator[None]:
        """torch.cuda.stream."""
        self.steps.append("device copy")
        if self.fails:
            raise RuntimeError("the device has fallen off the bus")
        yield


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """In place of `torch.cuda`."""
    driver = Cuda()
    runtime = SimpleNamespace(cudaHostRegister=driver.lock, cudaHostUnregister=driver.unlock)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "Stream", driver.stream)
    monkeypatch.setattr(torch.cuda, "stream", driver.using)
    return driver


def some_bytes(*lengths: int) -> list[torch.Tensor]:
    """Tensors of random bytes."""
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(0, 256, (n,), dtype=torch.uint8, generator=generator) for n in lengths]


def there_and_back(copier: Staged, sources: list[torch.Tensor]) -> list[torch.Tensor]:
    """The bytes after a way to the host and one to the device."""
    on_host, back = [[torch.zeros_like(s) for s in sources] for _ in range(2)]
    copier.to_host(on_host, sources)
    copier.to_device(back, on_host)
    return back


@pytest.mark.parametrize("lengths", [[BATCH_BYTES], [1, 511, 512, 513, 100_000] * 20])
def test_bytes_arrive(driver: Cuda, lengths: list[int]) -> None:
    """One large piece and many small ones are equal after both ways, and no lock is left."""
    copier, sources = Staged(), some_bytes(*lengths)
    back = there_and_back(copier, sources)
    assert all(map(torch.equal, back, sources))
    assert list(driver.locked.values()) == [BATCH_BYTES]
    assert driver.steps == ["device copy", "wait"] * 2
    copier.close()
    assert driver.locked == {}


def test_each_thread_has_a_buffer_of_its_own(driver: Cuda) -> None:
    """Copies at the same time share no buffer; one after the other they share one."""
    copier, meet = Staged(), threading.Barrier(3)
    lanes: list[Any] = []

    def take() -> None:
        lane = copier._take()
        meet.wait(30)
        lanes.append(lane)
        copier._give_back(lane)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(lane) for lane in lanes}) == 3
    there_and_back(copier, some_bytes(1000))
    assert driver.most_locked == 3
    copier.close()
    assert driver.locked == {}


def test_a_copy_that_fails_leaves_no_lock(driver: Cuda) -> None:
    """The device's error comes out, and closing unlocks everything."""
    copier, sources = Staged(), some_bytes(1000)
    driver.fails = True
    with pytest.raises(RuntimeError, match="fallen off"):
        copier.to_host([torch.zeros_like(sources[0])], sources)
    copier.close()
    assert driver.locked == {}


def test_a_driver_that_locks_nothing(driver: Cuda) -> None:
    """Where page-locking is refused, copies go straight, and arrive."""
    driver.refuses = True
    copier, sources = Staged(), some_bytes(1000, 7)
    assert all(map(torch.equal, there_and_back(copier, sources), sources))
    assert driver.steps == []
    copier.close()


@pytest.mark.parametrize(
    ("device_type", "page_locked", "way"),
    [("cuda", False, Staged), ("cuda", True, Straight), ("simgpu", False, Straight)],
)
def test_only_cuda_with_ordinary_host_memory_is_staged(
    device_type: str, page_locked: bool, way: type
) -> None:
    """Another accelerator, and a host buffer that is page-locked itself, need no stage."""
    host = SimpleNamespace(is_page_locked=page_locked)
    assert type(best(SimpleNamespace(type=device_type), host)) is way


@pytest.mark.gpu
def test_on_this_machines_gpu() -> None:
    """On a real GPU tensors large and small are bit-equal after an offload and an onload through the stage."""
    assert cuda.has_streams()
    tensors = [torch.randint(0, 256, (n,), dtype=torch.uint8, device="cuda") for n in (100 << 20, 3000, 17)]
    before = [tensor.cpu() for tensor in tensors]
    mechanism = TorchOffload()
    mechanism.offload()
    mechanism.onload()
    assert all(map(torch.equal, [tensor.cpu() for tensor in tensors], before))
