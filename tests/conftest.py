"""What every test shares: Jupyter's own fixtures, and the plain last line that sums the run up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

pytest_plugins = ["pytest_jupyter.jupyter_server", "ipykernel6"]

LONGEST = ("test_offload_histories.py", "test_whole_way.py", "test_thousand_cycles.py")
"""Files that take minutes. They begin first, so that none is left running alone at the end."""


def pytest_configure() -> None:
    """SIGINT interrupts, as in a terminal; what a shell starts in the background would ignore it, kernels included."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; what needs a real GPU is skipped, with the reason printed, where there is none."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if not Path("/dev/nvidiactl").exists():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here (/dev/nvidiactl does not exist)"))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Prints `N passed, N failed` as the very last line; errors count as failed, so nothing broken hides."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):
        passed = len(reporter.stats.get("passed", []))
        failed = len(reporter.stats.get("failed", [])) + len(reporter.stats.get("error", []))
        reporter._tw.line(f"{passed} passed, {failed} failed")
