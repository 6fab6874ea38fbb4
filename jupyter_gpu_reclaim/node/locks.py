"""A lock per GPU, held by one restore at a time among all servers of the machine: `flock` on a file of the GPU's name.

The system releases it whatever becomes of its holder; a file that nobody has locked means nothing. The files are made
by whoever comes first, and removed by him when he gives the lock back. They are opened to read only: `flock` needs no
more, and nobody is to write what is another user's. They are opened before they are made, since O_CREAT is refused on
a stranger's file where `fs.protected_regular` is set.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import quote

from jupyter_gpu_reclaim.node.directory import ANSWER_SECONDS, NodeDirectory, Unusable, open_plain

try:
    import fcntl
except ImportError:  # Windows: no server shares anything there, but the package must load all the same
    pass

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.002, 0.05
READABLE_BY_ALL = 0o444
BEING_MADE_SECONDS = 0.2
"""A file that may not be read yet may be in the moment between its making and its mode (another's umask)."""
MOST_REPLACED = 20  # times in a row that a lock's file is another one by the time it is locked

Tell = Callable[[str, str | None], None]
"""Called with a GPU and what is wrong with its lock, as a sentence; None: nothing any more."""


class GpuLocks:
    """The locks, for one server. Within the server, restores on a GPU take turns in the order in which they ask.

    What keeps a lock from being had never keeps a restore from going ahead: after `patience` seconds, or at once where
    there is no lock to be had, it goes on alone. A race for the same room then costs an attempt, never data.
    """

    def __init__(self, directory: NodeDirectory, tell: Tell, patience: float) -> None:
        self._directory = directory
        self._tell = tell
        self._patience = patience
        self._turns: dict[str, asyncio.Lock] = {}
        self._given_up: set[str] = set()  # GPUs whose lock somebody does not give back
        self._unusable: set[str] = set()  # GPUs that have no lock to be had

    @asynccontextmanager
    async def held(self, gpus: Collection[str]) -> AsyncIterator[None]:
        """Hold the lock of each GPU, taken in one order everywhere, so that no two can wait for each other."""
        async with AsyncExitStack() as stack:
            for gpu in sorted(set(gpus)):
                await stack.enter_async_context(self._one(gpu))
            yield

    @asynccontextmanager
    async def _one(self, gpu: str) -> AsyncIterator[None]:
        async with self._turns.setdefault(gpu, asyncio.Lock()):
            lock = await self._taken(gpu)
            try:
                yield
            finally:
                if lock is not None:
                    giving_back = asyncio.ensure_future(asyncio.to_thread(self._give_back, gpu, lock))
                    await asyncio.wait(
                        [giving_back], timeout=ANSWER_SECONDS
                    )  # goes on even if we are cancelled

    def look_again(self) -> None:
        """Whether locks that could not be had can be by now. Belongs into a thread."""
        for gpu in tuple(self._given_up | self._unusable):
            try:
                lock = self._try(gpu)
            except Unusable:
                continue
            if lock is not None:
                self._give_back(gpu, lock)
            elif gpu in self._given_up:
                continue
            self._is_well(gpu)

    def _is_well(self, gpu: str) -> None:
        self._given_up.discard(gpu)
        self._unusable.discard(gpu)
        self._tell(gpu, None)

    async def _taken(self, gpu: str) -> int | None:
        """The descriptor that holds the lock; None: go on without."""
        clock = asyncio.get_running_loop().time
        end = clock() + (0 if gpu in self._given_up else self._patience)
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                lock = await self._attempt(gpu)
            except Unusable as error:
                self._unusable.add(gpu)
                self._tell(gpu, f"Restores go ahead without the lock of their GPU: {error}. See `node_dir`.")
                return None
            if lock is not None:
                self._is_well(gpu)
                return lock
            if clock() >= end:
                self._given_up.add(gpu)
                self._tell(gpu, self._kept_by_another(gpu))
                return None
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    async def _attempt(self, gpu: str) -> int | None:
        """One try in a thread. Whatever a try takes that nobody waits for any more is given back."""
        attempt = asyncio.ensure_future(asyncio.to_thread(self._try, gpu))
        try:
            done, _ = await asyncio.wait([attempt], timeout=ANSWER_SECONDS)
        except asyncio.CancelledError:
            attempt.add_done_callback(_release_unused)
            raise
        if not done:
            attempt.add_done_callback(_release_unused)
            raise Unusable(f"{self._directory.path} has not answered for {ANSWER_SECONDS:.0f} s")
        return attempt.result()

    def _try(self, gpu: str) -> int | None:
        name = lock_name(gpu)
        with self._directory.opened() as directory:
            for _ in range(MOST_REPLACED):
                lock = _open_or_make(name, directory)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _has_name(lock, name, directory):
                        return lock
                except BlockingIOError:
                    os.close(lock)
                    return None
                except BaseException:
                    os.close(lock)
                    raise
                os.close(lock)  # removed or replaced since it was opened: a lock on it keeps nobody out
        raise Unusable(f"{name} in {self._directory.path} is replaced all the time")

    def _give_back(self, gpu: str, lock: int) -> None:
        """Release the lock. Its file goes first, while nobody else can have a lock on it."""
        name = lock_name(gpu)
        try:
            with suppress(Unusable), self._directory.opened() as directory:
                if _has_name(lock, name, directory):
                    os.unlink(name, dir_fd=directory)  # refused where the file is another user's
        finally:
            _release(lock)

    def _kept_by_another(self, gpu: str) -> str:
        path = self._directory.path / lock_name(gpu)
        return (
            f"Another process has kept the lock of a GPU for more than {self._patience:.0f} s ({path}; `lslocks` tells "
            "who), so restores there go ahead without it until it is free."
        )


def lock_name(gpu: str) -> str:
    """The name of a GPU's lock file."""
    return f"gpu-{quote(gpu, safe='')}.lock"


def _open_or_make(name: str, directory: int) -> int:
    end = time.monotonic() + BEING_MADE_SECONDS
    while True:
        try:
            return open_plain(name, directory)
        except FileNotFoundError:
            pass
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(FIRST_PAUSE_SECONDS)
            continue
        try:
            flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            made = os.open(name, flags, READABLE_BY_ALL, dir_fd=directory)
        except FileExistsError:
            continue
        os.fchmod(made, READABLE_BY_ALL)  # whatever the umask
        return made


def _has_name(lock: int, name: str, directory: int) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _release(lock: int) -> None:
    fcntl.flock(lock, fcntl.LOCK_UN)  # a child forked meanwhile has the descriptor, too
    os.close(lock)


def _release_unused(attempt: asyncio.Future[int | None]) -> None:
    lock = None if attempt.cancelled() or attempt.exception() is not None else attempt.result()
    if lock is not None:
        _release(lock)
