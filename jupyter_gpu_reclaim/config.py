"""The settings, as traits. A policy trait has the name of its field in `core.model.Policy`, spans with `_seconds`."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from traitlets import Dict, Enum, Float, Int, List, Unicode, Union

from jupyter_gpu_reclaim.core.model import OF_RULES, Policy
from jupyter_gpu_reclaim.log_config import LogTraits

_DEFAULT = Policy()
_LONGEST_SECONDS = 10 * 365 * 86400.0


class Seconds(Float):
    """A span in seconds; the fraction counts. Between `min` (0) and ten years, so that it is always a real span."""

    info_text = "a number of seconds from 0 to ten years"

    def __init__(self, default_value: float | timedelta, **metadata: Any) -> None:
        if isinstance(default_value, timedelta):
            default_value = default_value.total_seconds()
        super().__init__(default_value, **{"min": 0.0, "max": _LONGEST_SECONDS, **metadata})

    def validate(self, obj: Any, value: Any) -> float:
        """The span as float. Raises `TraitError` for what is no number in range (a NaN is in no range)."""
        span = super().validate(obj, value)
        if math.isnan(span):
            self.error(obj, value)
        return span


class Bytes(Int):
    """A number of bytes, 0 or more."""

    info_text = "a whole number of bytes, 0 or more"

    def __init__(self, default_value: int, **metadata: Any) -> None:
        super().__init__(default_value, **{"min": 0, **metadata})


class PolicyTraits(LogTraits):
    """Mixed into the server extension, so that every line below is a line of its configuration."""

    mode = Enum(
        ("on", "dry_run", "off"),
        default_value=_DEFAULT.mode,
        help="""What is done about idle kernels. "on": they are reclaimed. "dry_run": nothing is moved, and the log
        shows what would have been. "off": nothing is reclaimed. Kernels that are reclaimed already come back to the
        GPU when their next cell runs, whatever the mode. The default is "on", since the data
        is kept bit for bit and a reclaim that fails is rolled back.""",
    ).tag(config=True)

    idle_after_seconds = Seconds(
        _DEFAULT.idle_after,
        help="""Seconds after the end of the last cell (or other code of its user) until a kernel counts as idle and
        is reclaimed, whether or not anybody needs the GPU. 0: as soon as a cell ends. The default, 20 minutes, is
        longer than most pauses for thought and short beside a lunch break; coming back takes seconds.""",
    ).tag(config=True)

    warn_before_seconds = Seconds(
        _DEFAULT.warn_before,
        help="""Seconds before a kernel is reclaimed for being idle at which its user is warned, so that they can keep
        it on the GPU for a while. 0: no warning. Never more than half of `idle_after_seconds`. A kernel that somebody
        else needs the room of is not warned. The default, 1 minute, is enough to see the warning and answer it.""",
    ).tag(config=True)

    pressure_idle_after_seconds = Seconds(
        _DEFAULT.pressure_idle_after,
        help="""Seconds without activity after which a kernel may be reclaimed early, when GPU memory is short or
        somebody waits for room. 0: at once after a cell. More than `idle_after_seconds` has no effect. The default,
        2 minutes, keeps a kernel on the GPU from one cell to the next while its user is at it.""",
    ).tag(config=True)

    headroom_bytes = Bytes(
        _DEFAULT.headroom_bytes,
        help="""Bytes that are to stay free on each GPU, so that a new notebook finds room at once. With less free,
        idle kernels are reclaimed after `pressure_idle_after_seconds`. 0, the default: no free memory is kept; room
        is made when somebody waits for it.""",
    ).tag(config=True)

    pressure_grace_seconds = Seconds(
        _DEFAULT.pressure_grace,
        help="""Seconds for which a GPU must be short of headroom without a break before anything is reclaimed for
        it. 0: at once. The default, 30 seconds, outlasts the peaks that come and go within a cell.""",
    ).tag(config=True)

    cooldown_seconds = Seconds(
        _DEFAULT.cooldown,
        help="""Seconds of rest after a restore in which the kernel is not reclaimed again, against thrashing. 0: no
        rest. The default is 1 minute, long beside a restore.""",
    ).tag(config=True)

    quantum_seconds = Seconds(
        _DEFAULT.quantum,
        help="""Seconds for which a kernel stays on a GPU at least after a restore, while moving takes more of that
        GPU's time than `max_moving_share`; longer where moves take so long that this would not bring it down. 0: only
        as long as that takes. Less than `cooldown_seconds` has no effect. The default, 30 seconds, is long beside a
        move of some GiB.""",
    ).tag(config=True)

    max_moving_share = Float(
        _DEFAULT.max_moving_share,
        min=0.0,
        max=0.9,
        help="""Share of a GPU's time, from 0 to 0.9, that moves of data may take; above it kernels stay for longer
        after a restore (`quantum_seconds`). 0: it is never too much. The default, 0.1, leaves nine tenths to work.""",
    ).tag(config=True)

    max_running_per_gpu = Int(
        _DEFAULT.max_running_per_gpu,
        min=0,
        help="""How many kernels of this server that hold memory on a GPU may run cells at once; a further cell waits
        for its turn. 0, the default: no limit. Meant for crowded GPUs, where several at work slow each other down.""",
    ).tag(config=True)

    priorities = Dict(
        value_trait=Int(),
        key_trait=Unicode(),
        help="""Which kernels give way first when room is needed: a pattern of the notebook's path (`*` stands for any
        text) or the name of a kernelspec → a whole number, the lower first. The first entry that fits counts; 0 where
        none does. Default: none.""",
    ).tag(config=True)

    min_reclaim_bytes = Bytes(
        _DEFAULT.min_reclaim_bytes,
        help="""A kernel with fewer bytes on GPUs is left alone. 0: none is too small. The default, 64 MiB, is small
        on any GPU of today; moving less makes no room for anybody.""",
    ).tag(config=True)

    host_reserve_bytes = Bytes(
        _DEFAULT.host_reserve_bytes,
        help="""Bytes of host memory that reclaims leave alone: a kernel is reclaimed only if its data fits beside
        this reserve. 0: all available memory may be used, at the risk that the machine runs out of memory. The
        default, 2 GiB, leaves room for the notebooks' own work.""",
    ).tag(config=True)

    spill_dir = Unicode(
        "",
        help="""A folder on a disk where data goes that finds no room in host memory, in files without a name that
        only the kernel's own process can read and that end with it. Disks are slower than memory by far: a restore
        takes as long as reading it back. "", the default: nothing is written to disk.""",
    ).tag(config=True)

    spill_limit_bytes = Bytes(
        64 << 30,
        help="""Most bytes that all kernels together may hold in `spill_dir`. 0: none. The default is 64 GiB; without
        a `spill_dir` it has no effect.""",
    ).tag(config=True)

    verify = Union(
        [Enum(("always", "never")), Int(min=1)],
        default_value="always",
        help="""Whether checksums of all data, taken on the GPU, are held against the copy in host memory and against
        what comes back. "always"; a number N: in the first N reclaims of each kernel; "never". A difference keeps the
        data where it is whole, raises an alarm, and nothing more is reclaimed with that GPU, driver and framework
        until an administrator clears the alarm. The default is "always".""",
    ).tag(config=True)

    max_in_flight = Int(
        _DEFAULT.max_in_flight,
        min=1,
        help="""How many kernels are reclaimed at the same time; the others come after them. At least 1. The default
        is 2, since more share the same memory bus and finish no sooner. Restores are not held back by it.""",
    ).tag(config=True)

    max_pin_seconds = Seconds(
        _DEFAULT.max_pin,
        help="""Longest time, in seconds, for which a user may keep a kernel from being reclaimed (a pin). 0: pins
        are not allowed. The default, 12 hours, covers a working day; every pin has an end.""",
    ).tag(config=True)

    restore_timeout_seconds = Seconds(
        _DEFAULT.restore_timeout,
        help="""Seconds for which a cell waits for room on the GPU before it ends with an error that says so; its
        data stays safe in host memory, and the next cell asks again. 0: it waits without limit. The default is 10
        minutes: longer, and its user should know rather than wait.""",
    ).tag(config=True)

    room_wait_seconds = Seconds(
        30.0,
        help="""Seconds for which a running cell that finds no room on the GPU for a tensor waits for it, while idle
        kernels make room; then it gets the out-of-memory error that it would have got at once. 0: it never waits. The
        default, 30, is long beside a reclaim. Only while `mode` is "on", and only where the allocator can wait
        (docs/admission.md says where).""",
    ).tag(config=True)

    retry_after_seconds = Seconds(
        _DEFAULT.retry_after,
        help="""Seconds of rest after a move that failed or was refused, before it is tried again. Restores are tried
        sooner at first (1, 2, 4 … seconds, up to this). 0: no rest. The default is 30 seconds.""",
    ).tag(config=True)

    db_url = Unicode(
        "",
        help="""Where the log is kept, as a SQLAlchemy URL. "", the default: an SQLite file in Jupyter's data
        directory, which needs no setting up.""",
    ).tag(config=True)

    node_dir = Unicode(
        "",
        help="""A directory that all servers using the same GPUs share, in which they tell each other what their
        notebooks wait for and take turns restoring: made by the administrator, writable for all of them, with the
        sticky bit (mode 1777), on a local disk or in memory; mounted into every container. "", the default:
        /run/jupyter_gpu_reclaim where that exists, else /tmp/jupyter_gpu_reclaim. Without one, a server works alone,
        and its status says so.""",
    ).tag(config=True)

    hub_url = Unicode(
        "",
        help="""Where the JupyterHub's GPU reclaim service is, such as http://127.0.0.1:8000/services/gpu-reclaim/. It
        may set bounds to this policy, and gets the status and the log of this server. "", the default: as the Hub says
        in the variable JUPYTER_GPU_RECLAIM_HUB_URL; without that there is none.""",
    ).tag(config=True)

    tick_seconds = Seconds(
        5.0,
        min=0.1,
        help="""Seconds between two looks at GPUs and kernels, twice as long while nothing changes and nobody works or
        waits. At least 0.1. A cell that waits for its data does not wait for this: it is seen to at once, and what is
        due by time is done in time. The default, 5, is short beside every span above.""",
    ).tag(config=True)

    sample_seconds = Seconds(
        5.0,
        min=0.1,
        help="""Seconds between two reports of a kernel's agent about its GPU memory and background work, while
        they change. At least 0.1. Changes that matter at once are reported at once. The default is 5.""",
    ).tag(config=True)

    orphan_seconds = Seconds(
        5.0,
        help="""Seconds after which the agent of a reclaimed kernel that has lost the server, with a cell waiting,
        restores the data by itself. 0: at once. The default, 5, lets a server that restarts come back first.""",
    ).tag(config=True)

    host_buffer_seconds = Seconds(
        60.0,
        help="""Seconds for which a kernel whose data is back on the GPU keeps the host memory that held it, at least,
        so that a reclaim that follows soon is faster. 0: it is given back at once. The default, 60, serves kernels
        that take turns; one that is at work has no use for it, and its host memory is others' to use.""",
    ).tag(config=True)

    harmless_modules = List(
        Unicode(),
        help="""Names of Python modules whose threads never use the GPU, beside those known already: a kernel where
        only such threads run counts as idle. A name covers its submodules. Default: none.""",
    ).tag(config=True)

    def to_policy(self) -> Policy:
        """The policy these settings make. Each setting was validated when it was set (`TraitError`)."""
        names = [name for name in Policy.__dataclass_fields__ if name not in OF_RULES]
        return Policy(**{name: self._policy_value(name) for name in names})

    @property
    def verify_episodes(self) -> int | None:
        """`verify` as a number of reclaims; None: all."""
        return {"always": None, "never": 0}.get(self.verify, self.verify)

    def _policy_value(self, name: str) -> Any:
        if name == "spill_limit_bytes" and not self.spill_dir:
            return 0
        if isinstance(getattr(_DEFAULT, name), timedelta):
            return timedelta(seconds=getattr(self, f"{name}_seconds"))
        return getattr(self, name)
