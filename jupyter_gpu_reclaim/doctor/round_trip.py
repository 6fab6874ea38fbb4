"""Fills a GPU, offloads and onloads it, and compares every bit. Run as a script, by the Python that has torch.

    python round_trip.py AGENT_FOLDER LIMIT_BYTES

It writes one JSON object a line to stdout, each with "step", and after each line but the last waits for a line on
stdin, so that whoever reads can look at the GPU from outside at that very moment. Steps: "ready" (a context and
nothing else), "measured" (what plain copies reach), then for each size, twice, "resident", "offloaded", "restored";
last "end", or with a sentence "failed" (a move did) or "impossible" (nothing could be tried).
It stands alone: torch and the agent's engine are all it imports.
"""

import gc
import json
import sys
import time

MIB = 1 << 20
SMALLEST_BYTES, GROWTH = 64 * MIB, 4
SHARE_OF_FREE = 0.8
SMALL_TENSORS = 100  # they share one half of the bytes, one large tensor has the other
SLICE = (
    4 << 20
)  # elements filled or compared at a time, so that checking needs little memory beside the tensors
RATE_BYTES, RATE_TRIES = 256 * MIB, 5
MULTIPLIER = 1_640_531_527  # odd, so that the pattern repeats only after 2^32 elements


def tell(step, **facts):
    """One line out; then wait until whoever reads has had a look."""
    print(json.dumps({"step": step, **facts}), flush=True)
    if step not in ("end", "failed", "impossible"):
        sys.stdin.readline()


def sizes(free_bytes, limit_bytes):
    """64 MiB, four times as much, and so on, up to 80 % of what is free (or to the limit), which comes last."""
    most = min(int(free_bytes * SHARE_OF_FREE), limit_bytes)
    size, chosen = SMALLEST_BYTES, []
    while size < most:
        chosen.append(size)
        size *= GROWTH
    return [*chosen, most] if most >= MIB else chosen


def element_counts(nbytes):
    """How many int32 elements each tensor gets."""
    total = nbytes // 4
    small = total // 2 // SMALL_TENSORS
    return [total - small * SMALL_TENSORS] + [small] * SMALL_TENSORS


def pattern(torch, start, count, device):
    """`count` int32 values from place `start` on, each of which no other place of the same 4 GiB has."""
    return torch.arange(start, start + count, dtype=torch.int32, device=device).mul_(MULTIPLIER)


def slices(tensors):
    """(view of the tensor, its place in the pattern) for every stretch of at most `SLICE` elements."""
    place = 0
    for tensor in tensors:
        for begin in range(0, tensor.numel(), SLICE):
            view = tensor[begin : begin + SLICE]
            yield view, (place + begin) % (1 << 30)
        place += tensor.numel()


def filled(torch, nbytes, device):
    """Tensors of so many bytes in all, with the pattern."""
    tensors = [torch.empty(count, dtype=torch.int32, device=device) for count in element_counts(nbytes)]
    for view, place in slices(tensors):
        view.copy_(pattern(torch, place, view.numel(), device))
    return tensors


def wrong_bytes(torch, tensors):
    """How many bytes are in elements that differ from what was filled in."""
    wrong = 0
    for view, place in slices(tensors):
        expected = pattern(torch, place, view.numel(), view.device)
        if not torch.equal(view, expected):
            wrong += 4 * int((view != expected).sum())
    return wrong


def copy_rates(torch, device, accelerator):
    """(bytes/s to the host, bytes/s to the device, is the host memory page-locked): the best of a few plain copies."""
    page_locked = device.type == "cuda"
    host = torch.ones(RATE_BYTES, dtype=torch.uint8, pin_memory=page_locked)
    on_device = torch.ones(RATE_BYTES, dtype=torch.uint8, device=device)
    rates = []
    for target, source in ((host, on_device), (on_device, host)):
        best = float("inf")
        for _ in range(RATE_TRIES):
            accelerator.synchronize()
            began = time.perf_counter()
            target.copy_(source, non_blocking=True)
            accelerator.synchronize()
            best = min(best, time.perf_counter() - began)
        rates.append(RATE_BYTES / best)
    return rates[0], rates[1], page_locked


def timed(act):
    """(what it returned, seconds)."""
    began = time.perf_counter()
    result = act()
    return result, time.perf_counter() - began


def round_trips(torch, mechanism, device, nbytes):
    """Two round trips of so many bytes, the first with a fresh host buffer; True if every bit came back."""
    tensors = filled(torch, nbytes, device)
    mechanism.release_host_buffer()
    wrong = 0
    for host_buffer in ("fresh", "kept"):
        tell("resident", nbytes=nbytes, tensors=len(tensors), host_buffer=host_buffer)
        offloaded, seconds = timed(mechanism.offload)
        tell(
            "offloaded",
            seconds=seconds,
            copy_seconds=offloaded.seconds["copy"],
            moved_bytes=offloaded.moved_bytes,
            freed_bytes=sum(offloaded.freed_bytes.values()),
            unmovable=offloaded.unmovable,
            unexplained_bytes=offloaded.unexplained_bytes,
            problem=offloaded.problem,
        )
        onloaded, seconds = timed(mechanism.onload)
        wrong = wrong_bytes(torch, tensors)
        tell("restored", seconds=seconds, copy_seconds=onloaded.seconds["copy"], wrong_bytes=wrong)
        if wrong:
            break
    return wrong == 0


def main(agent_folder, limit_bytes):
    """The whole round; whatever cannot be done is said in one sentence."""
    try:
        import torch
    except ImportError as error:
        return tell("impossible", sentence=f"This Python has no torch ({error}).")
    gc.disable()  # as the agent does while bytes are away: a collection may run code that touches them
    sys.path.insert(0, agent_folder)
    import torch_offload

    current = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    if current is None or not torch.accelerator.is_available():
        return tell("impossible", sentence=f"PyTorch {torch.__version__} sees no GPU.")
    device, module = torch.device(current.type, 0), getattr(torch, current.type)
    first = torch.ones(1, device=device)
    try:
        mechanism = torch_offload.TorchOffload()
    except torch_offload.Unsupported as error:
        return tell("impossible", sentence=str(error))
    ((uuid, gpu),) = mechanism.gpus().items()
    del first
    module.empty_cache()
    tell("ready", uuid=uuid, name=gpu["name"], torch=torch.__version__, device=str(device))
    to_host, to_device, page_locked = copy_rates(torch, device, module)
    module.empty_cache()
    free_bytes, total_bytes = module.mem_get_info(0)
    chosen = sizes(free_bytes, limit_bytes)
    tell(
        "measured",
        to_host_rate=to_host,
        to_device_rate=to_device,
        page_locked=page_locked,
        free_bytes=free_bytes,
        total_bytes=total_bytes,
        sizes=chosen,
    )
    failures = (torch_offload.OffloadFailed, torch_offload.OnloadFailed, torch_offload.OutOfDeviceMemory)
    try:
        right = all(round_trips(torch, mechanism, device, nbytes) for nbytes in chosen)
    except failures as error:
        return tell("failed", sentence=str(error))
    return tell("end", right=right)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
