"""Whoever holds bytes on the GPU: they come back to the bit, or they stay, and it is said why. No user code runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from offload_process import DeviceProcess

from jupyter_gpu_reclaim.agent.torch_offload import outcome


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceProcess]:
    """A process with two simulated GPUs, poison on."""
    process = DeviceProcess(tmp_path_factory.mktemp("offload"))
    yield process
    process.close()


MOVES = {
    "storages_without_tensors": 3,
    "views_and_aliases": 1,
    "every_dtype": 10,
    "gradients": 6,
    "only_the_graph": 4,
    "modified_in_place": 2,
    "custom_function": 4,
    "saved_tensor_hooks": 4,
    "hostile_subclasses": 2,
    "live_exception": 1,
    "emptied_storages": 1,
    "deepcopied_model": 10,
}


@pytest.mark.parametrize("scenario", MOVES)
def test_everything_moves_and_comes_back(device: DeviceProcess, scenario: str) -> None:
    """All of it moves, comes back to the bit with version counters kept, and what is computed from it is right."""
    facts = device.run("offload_holders", scenario)
    assert facts["unmovable"] == {}
    assert facts["moved_bytes"] > 0
    assert facts["equal"]
    assert facts["versions_kept"]
    assert facts.get("gradients_equal", True)


def test_views_still_share_memory(device: DeviceProcess) -> None:
    """A write through one view after the cycle is read through the others and the base."""
    assert device.run("offload_holders", "views_and_aliases")["shared"]


def test_backward_still_notices_what_was_modified(device: DeviceProcess) -> None:
    """A saved variable that the user modified in place is refused by backward after the cycle, as before it."""
    assert (
        "modified by an inplace operation" in device.run("offload_holders", "modified_in_place")["complaint"]
    )


def test_no_unpack_hook_runs(device: DeviceProcess) -> None:
    """Neither the checkpointed forward nor a user's unpack hook is called by looking for tensors."""
    assert device.run("offload_holders", "saved_tensor_hooks")["user_code_ran"] == []


def test_the_users_own_modes_do_not_matter(device: DeviceProcess) -> None:
    """Default device and dtype, deterministic fills and a function mode change nothing, and are not asked."""
    facts = device.run("offload_holders", "users_own_modes")
    assert facts["unmovable"] == {}
    assert facts["equal"]
    assert facts["user_code_ran"] == 0


def test_emptied_storages_stay_empty(device: DeviceProcess) -> None:
    """A storage that its owner emptied is not filled by the onload."""
    assert device.run("offload_holders", "emptied_storages")["still_empty"]


def test_two_gpus(device: DeviceProcess) -> None:
    """Each device's bytes are freed, named by its UUID, and come back to the same device."""
    facts = device.run("offload_holders", "two_gpus")
    assert facts["equal"]
    assert facts["reserved"] == 0
    assert facts["devices"] == ["simgpu:0", "simgpu:1"]
    assert facts["freed"] == dict.fromkeys(facts["uuids"], 2 << 20)
    assert facts["needed"] == dict.fromkeys(facts["uuids"], 2 << 20)
    assert facts["allocated"] == {"0": 12288, "1": 12288}


def test_sparse_tensors_are_found_through_their_parts(device: DeviceProcess) -> None:
    """Indices and values of COO, CSR and CSC tensors, and of a sparse gradient, with no holder unknown."""
    facts = device.run("offload_holders", "sparse")
    assert facts["storages"] == 2 + 3 + 3 + 1 + 2
    assert facts["surplus"] == 0


STAYS = {
    "exported_capsule": outcome.HELD_OUTSIDE,
    "exported_view": outcome.BORROWED,
    "process_shared": outcome.SHARED,
    "array_interface": outcome.ARRAY_INTERFACE,
    "torchscript": outcome.HELD_OUTSIDE,
}


@pytest.mark.parametrize("scenario", STAYS)
def test_what_others_may_point_at_stays(device: DeviceProcess, scenario: str) -> None:
    """It keeps its address and its bytes, with its reason and size told; the rest moves all the same."""
    facts = device.run("offload_holders", scenario)
    assert facts["stayed"]
    assert set(facts["unmovable"]) == {STAYS[scenario]}
    assert sum(facts["unmovable"].values()) >= 4096
    assert facts["moved_bytes"] == 12000
    assert facts["other_equal"]
    assert facts.get("consumer_equal", True)


def test_lent_memory_stays(device: DeviceProcess) -> None:
    """Another library's memory, which PyTorch only sees, is neither copied nor exchanged."""
    facts = device.run("offload_holders", "lent_memory")
    assert facts["in_place"]
    assert facts["equal"]
    assert facts["unmovable"] == {outcome.NOT_OURS: 400}
    assert facts["moved_bytes"] == 12000


def test_a_graph_that_only_a_node_holds_stays_right(device: DeviceProcess) -> None:
    """Where a holder cannot be named, the tensors stay, and the graph still computes what it did."""
    facts = device.run("offload_holders", "only_a_node")
    assert facts["equal"]
    assert set(facts["unmovable"]) <= {outcome.HELD_OUTSIDE}


def test_bytes_without_an_owner_are_called_unexplained(device: DeviceProcess) -> None:
    """What C++ alone knows is left on the GPU, counted, and told as unexplained."""
    facts = device.run("offload_holders", "unknown_to_python")
    assert facts["unmovable"] == {outcome.UNEXPLAINED: 12288}
    assert facts["unexplained_bytes"] == 12288
    assert facts["equal"]


def test_gc_freeze_is_noticed(device: DeviceProcess) -> None:
    """Tensors that gc.freeze() hid stay, so does what shares memory with them, and that reason is told."""
    facts = device.run("offload_holders", "collector_frozen")
    assert facts["unmovable"] == {outcome.FROZEN: 2 * 12288}
    assert facts["moved_bytes"] == 2 * 12000
    assert facts["stayed"]
    assert facts["other_equal"]
    assert facts["hidden_equal"]


def test_a_live_cuda_graph_keeps_everything(device: DeviceProcess) -> None:
    """A recorded graph may replay any address, so nothing moves until it is gone."""
    facts = device.run("offload_holders", "recorded_graph")
    assert facts["unmovable"] == {outcome.GRAPH: 12288}
    assert facts["stayed"]
    assert facts["moves_without"] == 12000


def test_private_pools_stay(device: DeviceProcess) -> None:
    """A block of a private pool is left with its reason, whoever owns it; one without any owner is unexplained."""
    facts = device.run("offload_holders", "private_pool")
    assert facts["unmovable"] == {outcome.PRIVATE_POOL: 12288, outcome.UNEXPLAINED: 512}
    assert facts["unexplained_bytes"] == 512
    assert facts["staying"]
    assert facts["pooled"] == outcome.PRIVATE_POOL
    assert facts["plain"] is None


def test_needed_bytes_is_what_coming_back_takes(device: DeviceProcess) -> None:
    """For two hundred storages of all sizes the allocator's segments are foreseen to the byte."""
    facts = device.run("offload_holders", "reservations")
    assert facts["moved"] == 201
    assert facts["needed"] == facts["taken"]
