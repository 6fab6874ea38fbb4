"""Says in a cell's out-of-memory error what is being done about it, and whether running the cell again is safe."""

import functools
import sys

from .torch_offload import failed_allocation

ROOM_IS_MADE = (
    "jupyter_gpu_reclaim: room for {} was asked for; where idle notebooks hold this GPU, it is being made now. Running "
    "this cell again is safe only if all of it may run twice: what it did before this error stays done (variables it "
    "changed, files it wrote, random numbers it drew, a step of training it was in the midst of)."
)
WAITED = (
    "jupyter_gpu_reclaim: the cell waited {:.0f} s for room for {}, and none came. What else is on this GPU may be at "
    "work, or may not be moved."
)


def explain_out_of_memory(shell, room, gate, note):
    """From now on, such an error that ends a cell of this shell carries a note. The error stays what it is.

    `room` is the agent's `Room`; `note` takes a sentence for the server when something goes wrong here.
    """
    showtraceback = shell.showtraceback

    @functools.wraps(showtraceback)
    def explained(exc_tuple=None, *args, **kwargs):
        try:
            error = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
            failed = failed_allocation(error)
            sentence = _sentence(failed, room, gate) if failed else None
            if sentence:
                _add_note(error, sentence)
        except Exception as trouble:  # the user's own error is what must be shown
            note("An out-of-memory error could not be explained: {!r:.200}".format(trouble))
        return showtraceback(exc_tuple, *args, **kwargs)

    shell.showtraceback = explained


def _sentence(failed, room, gate):
    index, nbytes = failed
    in_vain = room.waited_in_vain
    if in_vain is not None and in_vain.since_at >= (gate.running_since_at() or 0.0):
        return WAITED.format(in_vain.waited_seconds, _readable(in_vain.nbytes))
    return ROOM_IS_MADE.format(_readable(nbytes)) if room.want_for_the_next_try(index, nbytes) else None


def _add_note(error, sentence):
    if hasattr(error, "add_note"):
        error.add_note(sentence)
    else:  # before Python 3.11
        error.args = (str(error) + "\n" + sentence,)


def _readable(nbytes):
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if nbytes >= size:
            return "{:.1f} {}".format(nbytes / size, unit)
    return "{} bytes".format(nbytes)
