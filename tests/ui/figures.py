"""`python tests/ui/figures.py [minutes a round]`: what the page costs, for docs/bench.md. Wants a machine to itself.

The bundle's bytes; the time from a reclaim's row in the log to its badge on screen; and the processor time of the
page's process while nobody touches it, in JupyterLab without us, with us, and with our sidebar open: browsers side by
side, so that each window of time gives pairs, each round with new ones in another order. One without us runs twice: by
what these two differ, others may without meaning anything. After the first round's windows a profile says what runs:
scripts of ours and of all, and how often they ask our server part.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from browser import Lab, chromium, command, lab, open_notebook, open_page, row, run_cell, show_sidebar
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from jupyter_gpu_reclaim.sim.board import Board, MiB

BUILT = Path(__file__).parents[2] / "jupyter_gpu_reclaim" / "labextension" / "static"
FILL = "import torch\nx = torch.arange(16 * 2**20, dtype=torch.float32).to('simgpu')"
TIMES = 10
ROUNDS = 3
SETTLED_SECONDS = 180  # the page looks ever more seldom, in the end once in five minutes
WINDOW_SECONDS = PROFILED_SECONDS = 60
OURS = "/extensions/jupyter-gpu-reclaim/"
AT_REST = ("(root)", "(idle)", "(program)")
WITHOUT, OPEN = "without us", "with our sidebar open"
WAYS = (WITHOUT, "without us, once more", "with us", OPEN)
NOTE_THE_BADGE = """() => {
    window.badgeAt = 0;
    new MutationObserver(() => {
        if (!document.querySelector('.jp-GpuReclaim-row[data-state=reclaimed]')) { window.badgeAt = 0; }
        else if (!window.badgeAt) { requestAnimationFrame(() => { window.badgeAt ||= Date.now(); }); }
    }).observe(document.querySelector('.jp-GpuReclaim'), { subtree: true, childList: true, attributes: true });
}"""


def badge_ms(server: Lab, page: Page) -> list[float]:
    """Milliseconds from `reclaim_done` in the log to the first frame that shows the badge, of `TIMES` reclaims."""
    page.evaluate(NOTE_THE_BADGE)
    found = []
    for _ in range(TIMES):
        kernel = server.until(
            lambda kernel, _: kernel["decision"]["reason"] == "recently_active", "fill.ipynb"
        )
        server.request("POST", f"/gpu-reclaim/api/kernels/{kernel['kernel_id']}/reclaim", {})
        row(page, "fill.ipynb", "reclaimed").wait_for()
        shown_at = page.wait_for_function("() => window.badgeAt").json_value()
        log = server.request("GET", "/gpu-reclaim/api/log?event=reclaim_done&limit=1")
        done_at = datetime.fromisoformat(log["transitions"][0]["at"]).timestamp()
        found.append(shown_at - 1000 * done_at)
        run_cell(page, 0)
        row(page, "fill.ipynb", "resident").wait_for()
    return found


def processor_seconds(browser: Browser) -> float:
    """What all renderers of the browser have used so far."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    ticks = 0
    for process in processes:
        if process["type"] == "renderer":
            fields = Path(f"/proc/{process['id']}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def idle_percents(
    server: Lab, playwright: Playwright, ways: Sequence[str], windows: int, profiled: bool
) -> list[dict[str, float]]:
    """Percent of one core that an untouched page with a notebook takes each way, for each of `windows` minutes.

    What the pages do then is printed, if `profiled`.
    """
    browsers = {way: chromium(playwright) for way in ways}
    pages = {}
    for way, browser in browsers.items():
        set_disabled(server, way.startswith(WITHOUT))
        pages[way] = page = open_page(browser, server, "lab?reset")
        open_notebook(page, "fill.ipynb")
        if way == OPEN:
            show_sidebar(page)
    page.wait_for_timeout(1000 * SETTLED_SECONDS)
    found = []
    for _ in range(windows):
        began = time.monotonic()
        before = {way: processor_seconds(browser) for way, browser in browsers.items()}
        page.wait_for_timeout(1000 * WINDOW_SECONDS)
        took = time.monotonic() - began
        used = {way: processor_seconds(browser) - before[way] for way, browser in browsers.items()}
        found.append({way: 100 * used[way] / took for way in WAYS})
        print("idle page:", ", ".join(f"{way} {found[-1][way]:.2f} %" for way in WAYS), flush=True)
    if profiled:
        for way in WAYS:
            print(f"idle page {way}, in {PROFILED_SECONDS} s: {what_runs(pages[way])}", flush=True)
    for browser in browsers.values():
        browser.close()
    return found


def what_runs(page: Page) -> str:
    """What scripts do in `PROFILED_SECONDS`: milliseconds of all and of ours, our functions, and our calls."""
    calls: list[str] = []
    page.on(
        "request", lambda request: calls.append(request.url) if "/gpu-reclaim/api/" in request.url else None
    )
    session = page.context.new_cdp_session(page)
    session.send("Profiler.enable")
    session.send("Profiler.start")
    page.wait_for_timeout(1000 * PROFILED_SECONDS)
    profile = session.send("Profiler.stop")["profile"]
    session.detach()
    frames = {node["id"]: node["callFrame"] for node in profile["nodes"]}
    spent: Counter[str] = Counter()
    ours = 0
    for node, microseconds in zip(profile["samples"], profile["timeDeltas"], strict=True):
        frame = frames[node]
        if frame["functionName"] not in AT_REST:
            spent["all"] += microseconds
            if OURS in frame["url"]:
                ours += microseconds
                spent[frame["functionName"] or "(anonymous)"] += microseconds
    all_scripts = spent.pop("all", 0)
    functions = ", ".join(f"{name} {used / 1000:.1f}" for name, used in spent.most_common(5))
    asked = Counter(url.partition("/gpu-reclaim/api/")[2].partition("?")[0] for url in calls)
    return (
        f"scripts {all_scripts / 1000:.0f} ms, ours {ours / 1000:.1f} ms ({functions}); asked {dict(asked)}"
    )


def set_disabled(server: Lab, disabled: bool) -> None:
    """Whether the page loads us. JupyterLab reads it with each page."""
    path = server.server.folder / "config" / "labconfig" / "page_config.json"
    names = {"@jupyterlab/apputils-extension:announcements": True, "jupyter-gpu-reclaim": disabled}
    path.write_text(json.dumps({"disabledExtensions": names}))


def main(minutes: int) -> None:
    """Show all figures."""
    size = sum(len(gzip.compress(script.read_bytes())) for script in BUILT.glob("*.js"))
    print(f"bundle, gzipped: {size / 1000:.1f} kB", flush=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        Board.create(Path(scratch) / "board", [("GPU", 256 * MiB)], context_bytes=16 * MiB) as board,
        lab(Path(scratch) / "lab", board) as server,
        sync_playwright() as playwright,
    ):
        server.notebook("fill.ipynb", [FILL])
        browser = chromium(playwright)
        page = open_page(browser, server, "lab")
        show_sidebar(page)
        open_notebook(page, "fill.ipynb")
        run_cell(page, 0)
        times = badge_ms(server, page)
        command(page, "docmanager:save")
        page.close()
        print(
            f"reclaim to badge, {len(times)} times: median {statistics.median(times):.0f} ms, most {max(times):.0f} ms",
            flush=True,
        )
        browser.close()
        windows = []
        for turn in range(ROUNDS if minutes else 0):
            ways = WAYS[turn:] + WAYS[:turn]
            windows += idle_percents(server, playwright, ways, minutes, profiled=turn == 0)
        for way in WAYS if windows else ():
            less = [window[way] - window[WITHOUT] for window in windows]
            print(
                f"idle page {way}: median {statistics.median(window[way] for window in windows):.2f} % of one core, "
                f"less that without us {spread(less)} points",
                flush=True,
            )


def spread(values: Sequence[float]) -> str:
    """The median, and between which two all are."""
    return f"{statistics.median(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
