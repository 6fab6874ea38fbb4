"""The modes that bring mistakes to light: poison, protection, delayed copies, scripted faults, flipped bits."""

from __future__ import annotations

import ctypes
import signal
import time
from typing import Any

import pytest
from simgpu import ChildDied, SimProcess, run_on_simgpu

from jupyter_gpu_reclaim.sim.board import FLIP_BIT, Board, MiB


def _bytes_at(address: int) -> bytes:
    """What the host sees there: not through torch, as a stale or careless pointer would."""
    return ctypes.string_at(address, 8)


# --- poison


def _read_after_free(give_back: bool) -> tuple[bytes, bytes]:
    import torch

    weights = torch.full((4 * MiB,), 7, dtype=torch.uint8, device="simgpu")
    address = weights.data_ptr()
    before = _bytes_at(address)
    del weights
    if give_back:
        torch.accelerator.empty_cache()
    return before, _bytes_at(address)


def test_poison_shows_to_a_stale_pointer(sim_board: Board) -> None:
    """With poison, freed memory reads 0xCD at once; without it, the old bytes, as on a GPU."""
    assert run_on_simgpu(sim_board, _read_after_free, False) == (b"\x07" * 8, b"\x07" * 8)
    sim_board.poison()
    assert run_on_simgpu(sim_board, _read_after_free, False) == (b"\x07" * 8, b"\xcd" * 8)


def test_given_back_memory_is_gone(sim_board: Board) -> None:
    """A read of memory given back to the board is SIGSEGV, or shows poison where it was asked to stay mapped."""
    with pytest.raises(ChildDied, match="SIGSEGV") as died:
        run_on_simgpu(sim_board, _read_after_free, True)
    assert died.value.signal == signal.SIGSEGV
    sim_board.keep_mapped()
    assert run_on_simgpu(sim_board, _read_after_free, True) == (b"\x07" * 8, b"\xcd" * 8)


# --- protection


def _compute() -> float:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4)).to("simgpu")
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        loss = model(torch.randn(4, 1, 8, 8).to("simgpu")).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    storage = next(model.parameters()).untyped_storage()
    storage.resize_(storage.nbytes() + 512)
    return loss.item()


def _touch_from_the_host() -> bytes:
    import torch

    return _bytes_at(torch.ones(100, device="simgpu").data_ptr())


def test_protection_catches_the_host(sim_board: Board) -> None:
    """Protected, device memory can be computed with as ever, and host code that touches it gets SIGSEGV."""
    expected = run_on_simgpu(sim_board, _compute)
    assert run_on_simgpu(sim_board, _touch_from_the_host) == b"\0\0\x80?" * 2
    sim_board.protect()
    sim_board.poison()
    assert run_on_simgpu(sim_board, _compute) == expected
    with pytest.raises(ChildDied, match="SIGSEGV"):
        run_on_simgpu(sim_board, _touch_from_the_host)


# --- delayed copies


def _offload(wait: str) -> dict[str, Any]:
    import torch

    device = torch.arange(1000.0, device="simgpu")
    host = torch.zeros(1000)
    host.copy_(device, non_blocking=True)
    event = torch.simgpu.Event()
    event.record()
    early = event.query()
    if wait == "synchronize":
        torch.accelerator.synchronize()
    elif wait == "event":
        event.synchronize()
    elif wait == "operator":
        device + 1
    elif wait == "empty_cache":
        torch.accelerator.empty_cache()
    arrived = torch.equal(host, torch.arange(1000.0))

    source = torch.ones(1000)
    device.copy_(source, non_blocking=True)
    source.fill_(5)  # a race, unless somebody waited
    return {"event early": early, "arrived": arrived, "loaded": device.sum().item()}


def test_copies_are_immediate_by_default(sim_board: Board) -> None:
    """Without the mode a non_blocking copy is done on return."""
    assert run_on_simgpu(sim_board, _offload, "nothing") == {
        "event early": True,
        "arrived": True,
        "loaded": 1000.0,
    }


@pytest.mark.parametrize("wait", ["nothing", "synchronize", "event", "operator", "empty_cache"])
def test_delayed_copies_expose_a_missing_synchronize(sim_board: Board, wait: str) -> None:
    """Delayed, a copy is not there until something waits for it, and takes its source as it is by then."""
    sim_board.delay_copies()
    assert run_on_simgpu(sim_board, _offload, wait) == {
        "event early": False,
        "arrived": wait != "nothing",
        "loaded": 5000.0,
    }


def _order() -> list[float]:
    import torch

    device, host = torch.zeros(10, device="simgpu"), torch.empty(10)
    device.copy_(torch.ones(10), non_blocking=True)
    doubled = device * 2  # after the copy, as on a CUDA stream
    host.copy_(doubled, non_blocking=True)
    doubled.zero_()  # after the copy back, too
    return [doubled.sum().item(), host.sum().item()]


def test_delayed_copies_keep_the_streams_order(sim_board: Board) -> None:
    """An operator after a delayed copy sees the copy done, and a copy before an operator does not see the operator."""
    sim_board.delay_copies()
    assert run_on_simgpu(sim_board, _order) == [0.0, 20.0]


def _across_modes() -> list[float]:
    import torch

    device, host = torch.ones(10, device="simgpu"), torch.zeros(10)
    with torch.inference_mode():
        host.copy_(device, non_blocking=True)
    torch.accelerator.synchronize()
    device.copy_(torch.full((10,), 3.0), non_blocking=True)
    with torch.inference_mode():
        torch.accelerator.synchronize()
    return [host.sum().item(), device.sum().item()]


def test_delayed_copies_cross_modes(sim_board: Board) -> None:
    """A copy asked for under inference mode may run outside it, and the other way round."""
    sim_board.delay_copies()
    assert run_on_simgpu(sim_board, _across_modes) == [10.0, 30.0]


def _wait_for_one_device() -> tuple[float, float]:
    import torch

    hosts = [torch.zeros(10), torch.zeros(10)]
    for index, host in enumerate(hosts):
        host.copy_(torch.ones(10, device=f"simgpu:{index}"), non_blocking=True)
    torch.accelerator.synchronize(1)
    return hosts[0].sum().item(), hosts[1].sum().item()


def test_each_device_is_waited_for_by_itself(new_board: Any) -> None:
    """To synchronize one device does not finish the delayed copies of another."""
    board = new_board(("GPU A", 64 * MiB), ("GPU B", 64 * MiB))
    board.delay_copies()
    assert run_on_simgpu(board, _wait_for_one_device) == (0.0, 10.0)


# --- scripted faults


def _attempts(channel: Any) -> None:
    import torch

    x = torch.ones(1000, device="simgpu")
    actions = {
        "alloc": lambda: torch.empty(10, device="simgpu"),
        "copy": lambda: x.cpu(),
        "operator": lambda: x + 1,
        "synchronize": torch.accelerator.synchronize,
        "empty_cache": torch.accelerator.empty_cache,
    }
    channel.send("ready")
    while (action := channel.recv()) != "end":
        began = time.monotonic()
        try:
            actions[action]()
            outcome = "done"
        except RuntimeError as error:  # OutOfMemoryError and AcceleratorError are its subclasses
            outcome = type(error).__name__
        channel.send((outcome, time.monotonic() - began))


@pytest.mark.parametrize("call", ["alloc", "copy", "operator", "synchronize", "empty_cache"])
def test_scripted_faults_of_the_device(sim_board: Board, call: str) -> None:
    """A call of the device fails as often as scripted, after those let pass, in the process named; then it works."""
    error = "OutOfMemoryError" if call == "alloc" else "AcceleratorError"
    with SimProcess(sim_board, _attempts) as named, SimProcess(sim_board, _attempts) as other:
        assert (named.receive(), other.receive()) == ("ready", "ready")
        sim_board.set_fault(call, 700, skip=1, count=2, pid=named.pid)

        def attempt(process: SimProcess) -> str:
            process.send(call)
            return process.receive()[0]

        assert [attempt(named) for _ in range(4)] == ["done", error, error, "done"]
        assert attempt(other) == "done"
        sim_board.set_fault(call, 700)
        assert [attempt(named), attempt(other)] == [error, error]
        sim_board.clear_faults()
        assert [attempt(named), attempt(other)] == ["done", "done"]


def test_a_fault_may_only_delay(sim_board: Board) -> None:
    """With code 0 the call works, that much later."""
    sim_board.set_fault("copy", 0, delay=0.3, count=1)
    with SimProcess(sim_board, _attempts) as process:
        process.receive()
        process.send("copy")
        outcome, took = process.receive()
    assert outcome == "done"
    assert took >= 0.3


def _round_trip() -> list[int]:
    import torch

    values = torch.arange(5, dtype=torch.uint8)
    return [values.to("simgpu").cpu().tolist(), values.to("simgpu").cpu().tolist()]


def test_a_bit_can_flip_in_a_copy(sim_board: Board) -> None:
    """A scripted bit flip makes one copy succeed with one bit wrong, in the first byte; the next copy is right."""
    sim_board.set_fault("copy", FLIP_BIT, skip=1, count=1)
    assert run_on_simgpu(sim_board, _round_trip) == [[1, 1, 2, 3, 4], [0, 1, 2, 3, 4]]


def a_segment_twice() -> tuple[list[int], list[int], float]:
    """Where a segment lay both times, what the process held after each release, and what the second one read as."""
    import torch

    addresses, held = [], []
    for value in (1.0, 2.0):
        tensor = torch.full((6 << 20,), value, device="simgpu")
        addresses.append(tensor.data_ptr())
        last = tensor[-1].item()
        del tensor
        torch.accelerator.empty_cache()
        held.append(torch.simgpu.memory_reserved())
    return addresses, held, last


def test_warm_pages_are_used_again(sim_board: Board) -> None:
    """A segment that was given back is free on the board, and its pages serve the next one of its size."""
    sim_board.warm_pages()
    addresses, held, last = run_on_simgpu(sim_board, a_segment_twice)
    assert addresses[0] == addresses[1]
    assert held == [0, 0]
    assert last == 2.0
