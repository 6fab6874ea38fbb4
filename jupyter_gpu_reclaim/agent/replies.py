"""What the agent answers to an order to move: the keys of each outcome, as `protocol` has them, but for the id."""

from .torch_offload import OutOfDeviceMemory


def done(details, took_seconds):
    """The move was made; `details` is an `Offloaded` or an `Onloaded`."""
    return {
        "outcome": "done",
        "moved_bytes": details.moved_bytes,
        "freed_bytes": dict(getattr(details, "freed_bytes", None) or {}),
        "needed_bytes": dict(getattr(details, "needed_bytes", None) or {}),
        "unmovable": dict(getattr(details, "unmovable", None) or {}),
        "spilled_bytes": getattr(details, "spilled_bytes", 0),
        "took_seconds": took_seconds,
    }


def refused(reason, detail=""):
    """Nothing was touched."""
    return {"outcome": "refused", "reason": reason, "detail": detail}


def failed(error):
    """The state is the one before the move, and it can be tried again, unless the mechanism says otherwise."""
    return {
        "outcome": "failed",
        "error": str(error) or unexpected(error),
        "memory_intact": bool(getattr(error, "memory_intact", True)),
        "out_of_memory": isinstance(error, OutOfDeviceMemory),
        "damaged_gpu": getattr(error, "damaged_gpu", None),
    }


def unexpected(error):
    """An error nobody foresaw, as a sentence."""
    return "unexpected {}: {}".format(type(error).__name__, error)
