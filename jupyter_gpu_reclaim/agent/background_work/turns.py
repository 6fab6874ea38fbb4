"""Notices threads that run between samples although every sample finds them waiting.

From Python 3.12 on a worker hands the GIL over right after its wait has returned, so that samples of a chain of short
jobs found it waiting 200 times of 200. The kernel's count of its turns on a CPU does not lie.
"""

_FEW = 2  # looks in a row that find new turns, before a thread is said to keep running: one may be its way to the wait
_MOST = 1000  # threads remembered


class Turns:
    """Answers `keeps_running(native_id)`, look by look. Where Linux does not count, the answer is always False."""

    def __init__(self):
        self._last = {}  # native id → (turns, looks in a row that found new ones)

    def keeps_running(self, native_id):
        """Whether this thread had turns on a CPU before this look and before the one before it."""
        turns = _turns_of(native_id)
        before, stirred = self._last.get(native_id, (turns, 0))
        stirred = stirred + 1 if turns != before else 0
        if len(self._last) > _MOST:
            self._last.clear()
        self._last[native_id] = turns, stirred
        return stirred >= _FEW


def _turns_of(native_id):
    try:
        with open("/proc/self/task/{}/schedstat".format(native_id), "rb") as file:
            return file.read().split()[-1]
    except (OSError, IndexError):  # not this system, or the thread has just ended
        return None
