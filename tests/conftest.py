"""What every test shares: Jupyter's own fixtures, and the plain last line that sums the run up."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytest_jupyter.jupyter_server", "ipykernel6"]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Prints `N passed, N failed` as the very last line; errors count as failed, so nothing broken hides."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):
        passed = len(reporter.stats.get("passed", []))
        failed = len(reporter.stats.get("failed", [])) + len(reporter.stats.get("error", []))
        reporter._tw.line(f"{passed} passed, {failed} failed")
