"""The trap table: every way in which bytes on a GPU are held, and what becomes of them. docs/engine.md shows it.

    (entry)                                  moves: copied away and back, to the bit
    (entry, {reason: bytes})                 these bytes stay, in place and usable, for these reasons; the rest moves

What this build of torch, 2.13 for the CPU with the simulated device, cannot make, and is therefore not here:
tensors quantised by torch itself and strided nested tensors (no kernels for such a device; both are deprecated),
`__cuda_array_interface__` itself (CUDA tensors only: the entry has objects as its consumers keep them), a recorded
CUDA graph and a memory pool (the entries have the live object, and the pool's mark in the allocator's list), a tensor
really sent to another process (`torch.multiprocessing` refuses to send this device's: the entry has its cache's note).
`torch.package` only pickles.
"""

from __future__ import annotations

from typing import Any

import holders_graph as graph
import holders_modes as modes
import holders_outside as outside
import holders_plain as plain
import holders_wrapped as wrapped
from holders import BLOCK, DEVICE, Entry, exported, tried

from jupyter_gpu_reclaim.agent.torch_offload import outcome

OUTSIDE = outcome.HELD_OUTSIDE

TABLE = {
    "What Python knows": [
        Entry(plain.storages_held_without_a_tensor),
        Entry(plain.views_and_aliases),
        Entry(plain.overlapping_windows_on_one_storage),
        Entry(plain.every_kind_of_number),
        Entry(plain.chains_of_complex_views, {OUTSIDE: 2 * BLOCK}),
        Entry(plain.emptied_storages),
        Entry(plain.closures_slots_generators_coroutines_caches),
        Entry(plain.variables_of_threads_and_contexts),
        Entry(plain.weak_references),
        Entry(plain.garbage_that_is_not_collected_yet),
        Entry(plain.frames_of_a_live_exception),
        Entry(plain.a_module_with_all_that_belongs_to_it),
        Entry(plain.optimizers_schedulers_and_averages),
        Entry(plain.parametrized_and_lazy_modules),
        Entry(plain.copies_of_page_locked_host_tensors),
        Entry(plain.tensors_on_two_devices),
    ],
    "What the autograd graph holds": [
        Entry(graph.gradients_that_python_has_not_read),
        Entry(graph.a_graph_that_hangs_on_a_host_tensor),
        Entry(graph.a_graph_of_which_only_a_node_is_kept, {OUTSIDE: BLOCK}),
        Entry(graph.a_graph_through_layers_of_every_kind, twin=DEVICE),
        Entry(graph.recurrent_layers_and_their_flat_weights, twin=DEVICE),
        Entry(graph.a_saved_variable_modified_in_place),
        Entry(graph.a_slice_modified_in_place_within_the_graph, {OUTSIDE: BLOCK, outcome.UNEXPLAINED: 6144}),
        Entry(graph.a_custom_autograd_function),
        Entry(graph.hooks_and_what_they_close_over),
        Entry(graph.saved_tensor_hooks_of_the_users),
        Entry(graph.activation_checkpointing),
        Entry(graph.reentrant_activation_checkpointing),
        Entry(graph.activations_saved_on_the_host),
        Entry(graph.tangents_of_forward_differentiation, {OUTSIDE: BLOCK}),
        Entry(graph.functions_made_by_torch_func, {OUTSIDE: 3 * BLOCK}),
        Entry(graph.closures_of_vmap_and_linearize),
        Entry(graph.anomaly_detection),
    ],
    "What the user has switched on and left on": [
        Entry(modes.default_device_and_dtype),
        Entry(modes.deterministic_fills),
        Entry(modes.a_function_mode),
        Entry(modes.a_dispatch_mode),
        Entry(modes.inference_mode),
        Entry(modes.gradients_switched_off),
        Entry(modes.saved_tensor_hooks_left_on),
        Entry(modes.autocast_with_its_cache_of_weights, {OUTSIDE: 12800, outcome.UNEXPLAINED: 6656}),
        Entry(modes.a_functional_transform_under_way, {outcome.UNEXPLAINED: 24064}),
    ],
    "Tensors within tensors": [
        Entry(wrapped.subclasses_whose_every_method_raises),
        Entry(wrapped.wrapper_subclasses),
        Entry(wrapped.sparse_tensors),
        Entry(wrapped.sparse_tensors_that_share_their_parts, {OUTSIDE: 18944}),
        Entry(wrapped.distributed_tensors),
        Entry(wrapped.a_fully_sharded_module),
        Entry(wrapped.compiled_functions_and_exported_programs),
        Entry(wrapped.nested_tensors, {OUTSIDE: 6656}),
        Entry(wrapped.quantised_attributes),
        Entry(wrapped.a_live_scripted_module, {OUTSIDE: 7168}),
        Entry(wrapped.a_scripted_module_loaded_from_a_file, {OUTSIDE: 7168}),
        Entry(wrapped.a_traced_module, {OUTSIDE: 5120}),
        Entry(wrapped.a_frozen_scripted_module, {OUTSIDE: 12800}, spoils=True),
        Entry(wrapped.a_traced_function, {OUTSIDE: BLOCK}, spoils=True),
    ],
    "What somebody else may point at": [
        Entry(outside.a_capsule_that_nobody_has_consumed, {OUTSIDE: BLOCK}),
        Entry(outside.a_capsule_without_its_tensor, {OUTSIDE: BLOCK}),
        Entry(outside.a_consumer_of_a_view_of_a_parameter, {outcome.BORROWED: BLOCK}),
        Entry(outside.a_consumer_in_another_language, {OUTSIDE: BLOCK}),
        Entry(outside.an_export_beside_complex_views, {OUTSIDE: BLOCK}),
        Entry(outside.an_export_that_was_given_back),
        Entry(outside.memory_lent_by_another_library, {outcome.NOT_OURS: 400}),
        Entry(outside.what_was_shared_with_another_process, {outcome.SHARED: BLOCK}),
        Entry(outside.what_an_array_library_borrowed, {outcome.ARRAY_INTERFACE: 4 * BLOCK}),
        Entry(outside.tensors_beside_a_recorded_graph, {outcome.GRAPH: 2 * BLOCK}, beside_stays=True),
        Entry(outside.a_private_memory_pool, {outcome.PRIVATE_POOL: BLOCK}),
        Entry(outside.what_gc_freeze_hid, {outcome.FROZEN: 3 * BLOCK}, beside_stays=True),
        Entry(outside.a_result_that_only_an_extension_knows, {outcome.UNEXPLAINED: BLOCK}),
        Entry(outside.a_result_in_a_python_future),
    ],
}

# Held by what runs by itself: cases of background_cases.py in which the kernel is left alone, and in which it is not.
BACKGROUND = {
    "tensors of a live user thread": [
        "thread that trains a model",
        "thread in forward passes of torch, no frame of the user's",
    ],
    "tensors of an executor that is at work": [
        "executor running a user function",
        "executor with queued work",
    ],
    "tensors of an asyncio task": ["task that trains a model between two sleeps"],
    "tensors of a GUI event loop": ["GUI event loop", "GUI event loop enabled by %gui"],
}
NO_OBSTACLE = {
    "the thread of a tqdm bar": ["tqdm bar", "tqdm bar of widgets"],
    "idle executors": [
        "thread executor, idle",
        "process executor, idle",
        "default executor of the loop, idle",
    ],
    "DataLoader's workers": ["DataLoader with persistent workers"],
    "torch's own threads": ["torch threads after a backward pass"],
    "a tensorboard writer": ["tensorboard writer"],
    "debugpy": ["debugpy imported and listening", "debugger of the front end attached"],
}

ENTRIES = {entry.scenario.__name__: entry for entries in TABLE.values() for entry in entries}


def try_entry(bench: Any, name: str) -> dict[str, Any]:
    """Facts of the entry of that name."""
    return tried(bench, ENTRIES[name])


def export_everything(bench: Any) -> dict[str, Any]:
    """{entry: facts} of every entry with all that it keeps exported."""
    facts = {}
    for name, entry in ENTRIES.items():
        if not entry.spoils:
            facts[name] = exported(bench, entry)
            bench.clean()
    return facts


def as_markdown() -> str:
    """The table as docs/engine.md has it."""
    sections = {
        title: [
            (entry.name, f"stays: {'; '.join(entry.stays)}" if entry.stays else "moves") for entry in entries
        ]
        for title, entries in TABLE.items()
    }
    sections["What runs by itself"] = [
        *((name, "the kernel is left alone: background work") for name in BACKGROUND),
        *((name, "no obstacle") for name in NO_OBSTACLE),
    ]
    lines = []
    for title, rows in sections.items():
        lines += [f"| **{title}** | |", *(f"| {name} | {verdict} |" for name, verdict in rows)]
    return "\n".join(["| held as | what becomes of it |", "| --- | --- |", *lines])
