"""Several threads for one piece of work: copying is faster with more than one, and what Python does per batch overlaps.

The threads live only as long as the work, so a fork, an exit or a look for background work never meets one.
"""

import os
import threading

import torch

_MOST_THREADS = 4  # more share the same memory bus


def size():
    """How many threads are worth having: as many as torch uses, up to four."""
    return max(1, min(_MOST_THREADS, torch.get_num_threads(), os.cpu_count() or 1))


def each(work, items, threads):
    """Calls `work(item)` for every item, in several threads, each item once and begun in order.

    Returns when every thread has ended. The first error stops the others at their next item, and is raised.
    """
    crew = _Crew(work, items)
    others = [
        threading.Thread(target=crew.run, name="gpu-reclaim-copy", daemon=True)
        for _ in range(min(threads, len(items)) - 1)
    ]
    for thread in others:
        thread.start()
    crew.run()
    for thread in others:
        thread.join()
    error, crew.error = crew.error, None
    try:
        if error is not None:
            raise error
    finally:
        del error  # its traceback names this frame: a cycle, which would keep the user's tensors alive


class _Crew:
    def __init__(self, work, items):
        self.error = None
        self._work, self._items = work, iter(items)
        self._lock = threading.Lock()

    def run(self):
        """Takes items until there are none, or somebody failed."""
        while self.error is None:
            with self._lock:
                item = next(self._items, None)
            if item is None:
                return
            try:
                self._work(item)
            except BaseException as error:
                with self._lock:
                    self.error = self.error or error
                return
