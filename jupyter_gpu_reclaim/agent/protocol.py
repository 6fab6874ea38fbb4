"""The whole protocol between an agent (client, in the kernel) and the server (listens on a unix socket).

One JSON object a line, UTF-8, each with "op". Bytes are ints in `*_bytes`, spans floats in `*_seconds`, instants Unix
seconds (float) in `*_at`. GPUs are named by UUID. Unknown keys are ignored, so either side may be a little newer;
a different `version` in hello is answered by `rejected` and the agent stays away (its kernel is then unmanaged).

agent → server
    hello             version, kernel_id, secret, pid, python, ipykernel, phase     first line, always
    status            see `STATUS_KEYS`; pushed when something changed, never more often than `sample_seconds`,
                      and at once when the phase, a wait or a wish changes (not for each cell that starts or
                      ends, unless there are running places)
    restore_wanted    cells (how many wait), trigger ("execute", "comm_msg", …)     user code reached the closed gate
    restore_unwanted  —                                                             the last one that waited gave up
    room_wanted       gpus {uuid: bytes}            running code could not take so much of the driver and waits for it
                                                    (or, if it cannot wait, wants it when it is run again); {}: no more
    ping              —                                                             once a second while somebody waits
    progress          done_bytes, total_bytes                                       while bytes move, at most 5 a second
    reply             re (the request's id), outcome + its keys (below), or status
server → agent
    welcome           version, sample_seconds, orphan_seconds, host_buffer_seconds, host_reserve_bytes,
                      verify_episodes (null: all), harmless_modules (list of str), places (whether a cell asks for
                      a running place before it runs while this kernel holds GPU memory), room_wait_seconds (how long
                      a failed allocation waits for room; 0: not at all)
    rejected          message                                                        then the server closes
    suspend           id, host_limit_bytes, spill_dir, spill_limit_bytes → reply outcome done | refused | failed; all
                      but the id may be left out: no limit, and no spilling to disk
    resume            id                   → reply outcome done | refused | failed
    look              id                   → reply status: a fresh STATUS (judges background work anew)
    admit             —                      what waits for room tries again; what waits for a running place goes
                                             ahead, and keeps the place until the last user code has left the gate
    pong              —                      at once after a ping: a server that is silent for long counts as gone
    end_wait          message, interrupted cells waiting at the gate end with one clear error carrying the message: a
                                           GPURestoreInterrupted if interrupted is true, else a GPURestoreTimeout;
                                           allocations that wait for room get their out-of-memory error

reply, outcome "done":     moved_bytes, freed_bytes {uuid: bytes}, needed_bytes {uuid: bytes},
                           unmovable {reason: bytes}, spilled_bytes, took_seconds
reply, outcome "refused":  reason (a core.model.Reason value), detail
reply, outcome "failed":   error, memory_intact (bool), out_of_memory (bool), damaged_gpu (uuid of the GPU where a
                           copy had another checksum than the original, or null)
"""

import json

VERSION = 1

# The agent's phases: the same words as core.model.Phase.
RESIDENT, RECLAIMING, RECLAIMED, RESTORING = "resident", "reclaiming", "reclaimed", "restoring"

# The one environment variable that injection adds beside PYTHONSTARTUP. Its value is JSON:
# {"socket": path, "kernel_id": str, "secret": str, "pythonstartup": the user's own PYTHONSTARTUP or null}
# startup.py removes it from os.environ, so that children of the kernel never see it.
ENVIRONMENT_VARIABLE = "JUPYTER_GPU_RECLAIM_AGENT"

STATUS_KEYS = (
    "phase",  # see above
    "phase_since_at",
    "running_since_at",  # None: no user code at work
    "waiting",  # user code waiting at the closed gate (not: at the open one for a place), a count
    "room_wanted",  # {uuid: bytes} that running code could not take of the driver and waits for; {}: none
    "room_wanted_at",  # since when; None: none
    "place_wanted_at",  # since when user code waits at the open gate for a running place; None: none
    "last_active_at",  # end of the last user code that counts as activity (silent executions do not); None: never
    "background_work",  # list of str, [] none found, None not judged yet
    "allocator_active",  # did the allocator's counters move in the last beat without user code? None: not known
    "gpus",  # {uuid: {"name", "index", "allocated_bytes", "reserved_bytes"}}; {} before torch touched a device
    "mechanism",  # "torch_offload", or None
    "framework",  # whose memory the mechanism moves, with its version: "torch 2.13.0"; None without a mechanism
    "unsupported",  # a sentence when mechanism is None although torch (or another framework) is loaded
    "host_bytes",  # size of the host buffer held
    "needed_bytes",  # {uuid: bytes} to come back, while reclaimed
    "spilled_bytes",  # of what was moved, on disk, while reclaimed
    "unmovable",  # {reason: bytes} of the last offload
    "notes",  # list of str: what the agent has to say (self-restored, agent error), oldest first, bounded
)

MAX_LINE_BYTES = 1 << 20


def encode(message):
    """One message as a line of bytes."""
    return json.dumps(message, separators=(",", ":")).encode("utf-8") + b"\n"


def decode(line):
    """The message of a line. Raises ValueError for anything that is not a JSON object with a string "op"."""
    message = json.loads(line)
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise ValueError("not a message: " + repr(line[:80]))
    return message
