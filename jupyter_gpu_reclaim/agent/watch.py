"""Knows when what was seen of background work is out of date: as soon as user code has run."""

BURST_SECONDS = 0.25


class Watch:
    """Keeps the judge of background work in step with the gate. Without a judge nothing is known, and so it says."""

    def __init__(self, gate, note):
        self._gate = gate
        self._note = note
        self._judge = None
        self._passed = None  # the gate's count when the judge began to look

    def begin(self, kernel, harmless_modules):
        """Make the judge, once the server has said which modules it should trust. A later word replaces it."""
        try:
            from .background_work import BackgroundWork

            self._judge = BackgroundWork(kernel, tuple(harmless_modules))
        except Exception as error:  # without a judge nothing is reclaimed; the kernel goes on as it is
            self._judge = None
            self._note("Background work cannot be judged in this kernel: {!r:.200}".format(error))
        self._passed = None

    def sample(self):
        """Add what is seen now; cheap. Starts afresh when user code has run since the last look."""
        if self._is_current():
            self._judge.sample()

    def judge(self, burst_seconds=BURST_SECONDS):
        """Look closely: a list of what works in the background, [] for nothing, None when it cannot be known."""
        return self._judge.judge(burst_seconds) if self._is_current() else None

    def snapshot(self):
        """What has been seen since user code last ran; None when it has not been judged, or user code is at work."""
        return self._judge.snapshot() if self._is_current() else None

    def _is_current(self):
        """Whether there is a judge and no user code is at work; forgets what was seen before user code ran."""
        if self._judge is None or self._gate.inside:
            return False
        passed = self._gate.passed
        if self._passed != passed:
            self._passed = passed
            self._judge.reset()
        return True
