"""How it looks and reads in every theme, as narrow as a sidebar gets, with nothing and with a hundred kernels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Lab, command, open_page, show_sidebar
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "status.json").read_text())
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
THEMES = ("JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast")
OURS = [".jp-GpuReclaim", ".jp-GpuReclaim-statusbar", ".jp-GpuReclaimLog"]
NARROW = 240


class Pretender:
    """Answers GET status in the server's place, so that any status can be looked at. Nothing else is pretended."""

    def __init__(self) -> None:
        self.page: Page
        self.body: Any = GOLDEN
        self.code = 200

    def prepare(self, page: Page) -> None:
        """Stand between this page and the server, at the instant of the golden status."""
        self.page = page
        page.clock.set_fixed_time(GOLDEN["taken_at"])
        page.route(
            "**/gpu-reclaim/api/status?*",
            lambda route: route.fulfill(status=self.code, body=json.dumps(self.body)),
        )

    def show(self, body: Any, code: int = 200) -> None:
        """Have the page ask, and show this."""
        self.body, self.code = body, code
        command(self.page, "gpu-reclaim:refresh-status")


@pytest.fixture(scope="module")
def pretender(lab: Lab, chromium: Browser) -> Iterator[Pretender]:
    """A page with the sidebar and the log open."""
    pretender = Pretender()
    page = open_page(chromium, lab, "lab?reset", (1280, 1500), pretender.prepare)
    command(page, "gpu-reclaim:show-log")
    show_sidebar(page)
    yield pretender
    page.close()


def kernels(count: int) -> dict[str, Any]:
    """The golden status with so many kernels, made of its own."""
    originals = GOLDEN["kernels"]
    many = [
        {**originals[i % len(originals)], "kernel_id": f"kernel-{i}", "label": f"work/notebook-{i:03}.ipynb"}
        for i in range(count)
    ]
    return {**GOLDEN, "kernels": many, "problems": [], "alarms": []}


def set_width(page: Page, width: int) -> None:
    """Drag the sidebar's edge until it is so wide."""
    panel = page.locator(".jp-GpuReclaim")
    edge = panel.bounding_box()["x"]
    page.mouse.move(edge - 2, 700)
    page.mouse.down()
    page.mouse.move(edge - 2 + panel.bounding_box()["width"] - width, 700, steps=5)
    page.mouse.up()


def test_a_warning_lets_its_user_keep_the_notebook(pretender: Pretender) -> None:
    """Each idle notebook that is about to be reclaimed has its notification, whose button keeps it for an hour."""
    page = pretender.page
    anew = {
        "label": "just-now.ipynb",
        "warned_at": GOLDEN["taken_at"],
    }  # one that was told is gone when it is due
    kernels = [
        {**kernel, **anew} if kernel["kernel_id"] == "warned" else kernel for kernel in GOLDEN["kernels"]
    ]
    pretender.show({**GOLDEN, "kernels": kernels})
    toast = page.locator(".Toastify__toast").filter(has_text="just-now.ipynb is idle")
    with page.expect_request("**/gpu-reclaim/api/kernels/warned/pin?*") as asked:
        toast.get_by_role("button", name="Keep").click()
    assert (asked.value.method, asked.value.post_data_json) == ("PUT", {"seconds": 3600})


@pytest.mark.parametrize("theme", THEMES)
def test_no_serious_finding_of_axe(pretender: Pretender, theme: str, tmp_path: Path) -> None:
    """In light, dark and high contrast, axe-core finds nothing serious in sidebar, status bar and log."""
    page = pretender.page
    command(page, "apputils:change-theme", theme=theme)
    page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
    # It covers everything while a theme changes.
    page.locator("#jupyterlab-splash").wait_for(state="detached")
    pretender.show(GOLDEN)
    expect(page.locator(".jp-GpuReclaim-row")).to_have_count(len(GOLDEN["kernels"]))
    # The body has no height and hides what overflows it: axe would take all in it for unseen, and judge no contrast.
    page.add_style_tag(content="body { overflow: visible !important }")
    page.add_script_tag(path=AXE)
    report = page.evaluate("include => axe.run({ include })", [[place] for place in OURS])
    judged = [check["id"] for check in report["passes"] if len(check["nodes"]) > len(GOLDEN["kernels"])]
    assert "color-contrast" in judged
    page.screenshot(path=tmp_path / f"{theme}.png")
    serious = [
        (finding["id"], [node["html"] for node in finding["nodes"]])
        for finding in report["violations"]
        if finding["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("count", [0, 1, 100])
def test_nothing_sticks_out_of_a_narrow_sidebar(pretender: Pretender, count: int, tmp_path: Path) -> None:
    """At 240 pixels nothing is cut off at the side, with no kernel, with one and with a hundred."""
    page = pretender.page
    pretender.show(kernels(count))
    expect(page.locator(".jp-GpuReclaim-row")).to_have_count(count)
    set_width(page, NARROW)
    page.screenshot(path=tmp_path / f"narrow-{count}.png")
    panel = page.locator(".jp-GpuReclaim")
    assert NARROW - 10 <= panel.bounding_box()["width"] <= NARROW + 10
    assert panel.evaluate("node => node.scrollWidth - node.clientWidth") == 0
    for place in panel.locator("li, dl, header, button").all()[:60]:
        box = place.bounding_box()
        assert box is None or box["x"] + box["width"] <= 1280


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("not found", 404, "GPU reclaim is not running on this server"),
        ({"reason": "forbidden", "message": "Forbidden"}, 403, "You may not see this"),
        ({"reason": "not_running", "message": "Reclaiming GPUs needs Linux."}, 503, "Reclaiming GPUs needs Linux."),
        ({"version": 7}, 200, "This page and the server are of different versions"),
        ({**GOLDEN, "gpus": []}, 200, "No GPU on this server"),
        ({**GOLDEN, "gpus": None, "problems": ["This user may not ask the NVIDIA driver."]}, 200, "may not ask"),
        ({**GOLDEN, "policy": {"mode": "dry_run"}}, 200, "Dry run: nothing is moved"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_said_with_what_to_do(
    pretender: Pretender, body: Any, code: int, said: str
) -> None:
    """A server without us, one that refuses, one of another version, no GPU, no permission, a dry run: each is said."""
    pretender.show(body, code)
    expect(pretender.page.locator(".jp-GpuReclaim-notices")).to_contain_text(said)
    pretender.show(GOLDEN)
    expect(pretender.page.locator(".jp-GpuReclaim-notices")).not_to_contain_text(said)
