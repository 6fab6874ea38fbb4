"""Sparse tensors on the device: made, changed, multiplied and differentiated as on the CPU, to the bit."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

from simgpu import run_on_simgpu

from jupyter_gpu_reclaim.sim.board import Board


def _coo_cases() -> dict[str, Callable[[str], Any]]:
    """Each takes a device and gives tensors or plain values."""
    import torch

    where = torch.tensor([[0, 1, 1, 2], [1, 2, 2, 0]])

    def dense(d: str, *shape: int) -> Any:
        return torch.randn(*(shape or (6, 6)), generator=torch.Generator().manual_seed(1)).to(d)

    def sparse(d: str) -> Any:
        return dense(d).clamp_min(0).to_sparse()

    def made(d: str, *shape: int) -> Any:
        return torch.sparse_coo_tensor(where.to(d), dense(d, 4, *shape), (3, 3, *shape))

    def in_place(d: str) -> Any:
        scaled, summed, emptied, written = (sparse(d) for _ in range(4))
        summed.add_(scaled.mul_(3))
        emptied.zero_()
        written._values().fill_(2)
        return [scaled, summed, emptied, emptied._nnz(), written]

    def differentiated(d: str) -> Any:
        left, right = sparse(d).requires_grad_(), dense(d, 6, 3).requires_grad_()
        torch.sparse.mm(left, right).square().sum().backward()
        values = dense(d, 4).requires_grad_()
        torch.sparse_coo_tensor(where.to(d), values, (3, 3)).to_dense().mul(2).sum().backward()
        return [left.grad, right.grad, values.grad]

    def embedding(d: str) -> Any:
        torch.manual_seed(0)
        table = torch.nn.Embedding(9, 4, sparse=True).to(d)
        optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            table(torch.tensor([1, 2, 2], device=d)).square().sum().backward()
            table(torch.tensor([3, 2], device=d)).sum().backward()  # a second gradient, added to the first
            optimizer.step()
        state = [v for of_one in optimizer.state.values() for v in of_one.values()]
        return [table.weight.detach(), table.weight.grad, *state]

    def saved(d: str) -> Any:
        torch.save(sparse(d), file := io.BytesIO())
        file.seek(0)
        return torch.load(file)

    return {
        "made of parts": lambda d: made(d),
        "coalesced": lambda d: [
            made(d).coalesce(),
            made(d).coalesce().indices(),
            made(d).coalesce().values(),
        ],
        "hybrid": lambda d: made(d, 2).coalesce(),
        "empty": lambda d: [torch.sparse_coo_tensor((3, 3), device=d), torch.zeros_like(sparse(d))],
        "to dense": lambda d: sparse(d).to_dense(),
        "from the host": lambda d: dense("cpu").to_sparse().to(d),
        "products": lambda d: [sparse(d) @ dense(d, 6, 3), sparse(d) @ dense(d, 6), sparse(d) @ sparse(d)],
        "sums": lambda d: [sparse(d) + sparse(d) * 2, dense(d) + sparse(d), torch.sparse.sum(sparse(d), 0)],
        "one by one": lambda d: [sparse(d).abs(), sparse(d).sin(), sparse(d).double(), sparse(d).norm()],
        "softmax": lambda d: torch.sparse.softmax(sparse(d), 1),
        "shapes": lambda d: [sparse(d).t(), torch.cat([sparse(d), sparse(d)])],
        "chosen": lambda d: [
            dense(d).sparse_mask(sparse(d)),
            sparse(d).index_select(0, torch.tensor([1, 3], device=d)),
        ],
        "copies": lambda d: [sparse(d).clone(), sparse(d).detach(), copy.deepcopy(sparse(d)), saved(d)],
        "in place": in_place,
        "differentiated": differentiated,
        "embedding": embedding,
        "printed": lambda d: "layout=torch.sparse_coo" in repr(sparse(d)),
    }


def _compressed_cases(layout: str) -> dict[str, Callable[[str], Any]]:
    import torch

    def dense(d: str, *shape: int) -> Any:
        return torch.randn(*(shape or (6, 6)), generator=torch.Generator().manual_seed(1)).to(d)

    def sparse(d: str) -> Any:
        return getattr(dense(d).clamp_min(0), f"to_sparse_{layout}")()

    def in_place(d: str) -> Any:
        scaled = sparse(d)
        scaled.mul_(2)
        scaled.values().add_(1)
        return scaled

    def differentiated(d: str) -> Any:
        left, right = sparse(d).requires_grad_(), dense(d, 6, 3).requires_grad_()
        (left @ right).square().sum().backward()
        return [left.grad, right.grad]

    cases = {
        "made": sparse,
        "to dense": lambda d: [sparse(d).to_dense(), sparse(d).to_sparse()],
        "from the host": lambda d: sparse("cpu").to(d),
        "products": lambda d: [sparse(d) @ dense(d, 6, 3), sparse(d) @ dense(d, 6)],
        "one by one": lambda d: [sparse(d) * 2, sparse(d).sin(), sparse(d).clone(), sparse(d).t()],
        "in place": in_place,
        "differentiated": differentiated,
        "printed": lambda d: f"layout=torch.sparse_{layout}" in repr(sparse(d)),
    }
    if layout == "csr":  # torch adds no two of the others
        cases["sum"] = lambda d: sparse(d) + sparse(d)
    return cases


def _plain(value: Any) -> Any:
    import torch

    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if not torch.is_tensor(value):
        return value
    device, layout = value.device.type, str(value.layout)
    value = value.to_dense() if value.layout is not torch.strided else value
    return [device, layout, str(value.dtype), value.cpu().tolist()]


def _compare() -> tuple[int, list[Any]]:
    cases = {f"coo, {name}": case for name, case in _coo_cases().items()}
    for layout in ("csr", "csc"):
        cases.update({f"{layout}, {name}": case for name, case in _compressed_cases(layout).items()})
    different = []
    for name, case in cases.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "sparse CSR support is in beta state"
            host, device = (_plain(case(d)) for d in ("cpu", "simgpu"))
        if str(host).replace("cpu", "simgpu") != str(device).replace("cpu", "simgpu"):
            different.append([name, host, device])
    return len(cases), different


def test_sparse_tensors_equal_the_cpus(sim_board: Board) -> None:
    """COO and compressed tensors: what is made, computed, differentiated and stored equals the CPU's."""
    compared, different = run_on_simgpu(sim_board, _compare)
    assert different == []
    assert compared > 30


def _parts_on_the_device() -> list[list[str]]:
    import torch

    coo = torch.eye(6).to_sparse().to("simgpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        csr = torch.eye(6).to_sparse_csr().to("simgpu")
    product = coo @ torch.ones(6, 2, device="simgpu")
    parts = [coo.indices(), coo.values(), csr.crow_indices(), csr.col_indices(), csr.values(), product]
    return [[str(coo.device), str(csr.device)], [str(part.device) for part in parts]]


def test_their_parts_are_on_the_device(sim_board: Board) -> None:
    """Indices and values lie in the device's memory, and what is computed from them too."""
    assert run_on_simgpu(sim_board, _parts_on_the_device) == [["simgpu:0"] * 2, ["simgpu:0"] * 6]


def _mixed() -> str:
    import torch

    try:
        torch.eye(6).to("simgpu").to_sparse() @ torch.ones(6, 2)
    except RuntimeError as error:
        return str(error)
    return ""


def test_devices_do_not_mix(sim_board: Board) -> None:
    """A sparse tensor of the device and a dense one of the host are refused together, as CUDA does."""
    assert "same device" in run_on_simgpu(sim_board, _mixed)
