"""What else a person does: uses the palette and the Running panel, types, and sets it their way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import browser
import pytest
from browser import Lab, command, open_notebook, open_page, row, run_cell, show_sidebar
from conftest import CHECK, FILL
from playwright.sync_api import Browser, Page, expect

from jupyter_gpu_reclaim.sim.board import Board

STATUS, PREFETCH = "**/gpu-reclaim/api/status?*", "**/prefetch?*"
SETTINGS = "/api/settings/jupyter-gpu-reclaim:plugin"
expect.set_options(timeout=browser.PATIENCE_MS)
ACTIVE_CELL = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell:nth-child(2) .cm-content"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, board: Board) -> Iterator[Lab]:
    """A server that reclaims nothing by itself while this lasts, with two notebooks that hold 64 MiB."""
    with browser.lab(tmp_path_factory.mktemp("lab"), board) as lab:
        lab.notebook("fill.ipynb", [FILL, CHECK])
        lab.notebook("other.ipynb", [FILL, CHECK])
        yield lab


@pytest.fixture(scope="module")
def page(lab: Lab, chromium: Browser) -> Page:
    """JupyterLab with the sidebar open, whose time can be put forward."""
    page = open_page(chromium, lab, "lab", prepare=lambda page: page.clock.install())
    page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
    show_sidebar(page)
    return page


def phase_is(phase: str) -> Callable[[dict[str, Any], datetime], bool]:
    """For `Lab.until`."""
    return lambda kernel, _: kernel["phase"] == phase


def reclaim(lab: Lab, page: Page, name: str) -> None:
    """Have the notebook's GPU memory taken, and seen to be, once the driver shows its cell's work no longer."""
    kernel = lab.until(lambda kernel, _: kernel["decision"]["reason"] in ("recently_active", "pinned"), name)
    command(page, "gpu-reclaim:reclaim-notebook", kernelId=kernel["kernel_id"])
    lab.until(phase_is("reclaimed"), name)
    expect(row(page, name, "reclaimed")).to_be_visible()


def set_preference(page: Page, name: str, value: bool | str | int) -> None:
    """Set it in the settings editor, and wait until it is saved and read anew."""
    command(page, "settingeditor:open", query="GPU reclaim")
    field = page.locator(f"[id='jp-SettingsEditor-jupyter-gpu-reclaim:plugin_{name}']")
    field.wait_for()
    with page.expect_response(lambda reply: SETTINGS in reply.url and reply.request.method == "GET"):
        if isinstance(value, bool):
            field.set_checked(value)
        elif isinstance(value, str):
            field.select_option(value)
        else:
            field.fill(str(value))
            field.blur()


def from_palette(page: Page, label: str) -> None:
    """Choose this command in the palette by keyboard."""
    page.keyboard.press("Control+Shift+c")
    page.locator(".lm-CommandPalette-input:visible").fill(label)
    expect(page.locator(".lm-CommandPalette-item.lm-mod-active")).to_contain_text(label)
    page.keyboard.press("Enter")


def test_the_palette_has_each_act(lab: Lab, page: Page) -> None:
    """By keyboard alone the notebook in front is let go, kept, reclaimed and restored, and each view is opened."""
    name = "fill.ipynb"
    open_notebook(page, name)
    run_cell(page, 0)
    expect(row(page, name)).to_contain_text("MiB")
    from_palette(page, "Keep this notebook on the GPU for a while")
    lab.until(lambda kernel, _: kernel["decision"]["reason"] == "pinned", name)
    expect(row(page, name, "kept")).to_be_visible()
    from_palette(page, "Keep this notebook on the GPU no longer")
    lab.until(lambda kernel, _: kernel["pinned_until"] is None, name)
    expect(row(page, name, "kept")).to_have_count(0)
    lab.until(lambda kernel, _: kernel["decision"]["reason"] == "recently_active", name)
    from_palette(page, "Reclaim the GPU memory of this notebook now")
    lab.until(phase_is("reclaimed"), name)
    expect(row(page, name, "reclaimed")).to_be_visible()
    from_palette(page, "Restore the GPU memory of this notebook now")
    lab.until(phase_is("resident"), name)
    with page.expect_request(STATUS):
        from_palette(page, "Refresh the GPU Status")
    command(page, "application:toggle-right-area")
    expect(page.locator(".jp-GpuReclaim-panel")).to_be_hidden()
    from_palette(page, "Show the GPU Reclaim Sidebar")
    expect(page.locator(".jp-GpuReclaim-panel")).to_be_visible()
    from_palette(page, "Show the GPU Reclaim Log")
    expect(page.locator(".jp-GpuReclaimLog tr[data-row]").filter(has_text="kept")).not_to_have_count(0)


def test_typing_brings_the_data_back_before_a_cell_runs(lab: Lab, page: Page) -> None:
    """Where "Restore early" is set, a letter typed into a reclaimed notebook restores it; where not, nothing asks."""
    open_notebook(page, "fill.ipynb")
    reclaim(lab, page, "fill.ipynb")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/prefetch" in request.url else None)
    set_preference(page, "earlyRestore", False)
    open_notebook(page, "fill.ipynb")
    page.locator(ACTIVE_CELL).press("End")
    page.keyboard.type("#")
    command(page, "gpu-reclaim:refresh-status")
    assert (asked, lab.until(lambda *_: True, "fill.ipynb")["phase"]) == ([], "reclaimed")
    set_preference(page, "earlyRestore", True)
    open_notebook(page, "fill.ipynb")
    with page.expect_request(PREFETCH):
        page.locator(ACTIVE_CELL).press("End")
        page.keyboard.type("#")
    kernel = lab.until(phase_is("resident"), "fill.ipynb")
    assert kernel["restored_early"]
    expect(row(page, "fill.ipynb", "reclaimed")).to_have_count(0)
    expect(run_cell(page, 1)).to_have_text("True")


def test_the_running_panel_reclaims_and_opens(lab: Lab, page: Page) -> None:
    """Its section lists who holds GPU memory; a name opens the notebook, a button reclaims one, and another all."""
    open_notebook(page, "other.ipynb")
    run_cell(page, 0)
    lab.until(lambda kernel, _: kernel["decision"]["reason"] == "recently_active", "other.ipynb")
    command(page, "running:show-panel")
    ours = page.locator(".jp-RunningSessions-item").filter(has_text=re.compile(r"MiB · "))
    item = ours.filter(has_text="fill.ipynb")
    item.get_by_text("fill.ipynb").click()
    page.wait_for_function("() => window.jupyterapp.shell.currentWidget?.context?.path === 'fill.ipynb'")
    item.hover()
    item.get_by_title("Reclaim now").click()
    lab.until(phase_is("reclaimed"), "fill.ipynb")
    expect(item).to_contain_text("reclaimed")
    page.get_by_role("button", name="Reclaim All").click()
    page.get_by_role("dialog").get_by_role("button", name="Reclaim All").click()
    lab.until(phase_is("reclaimed"), "other.ipynb")
    assert lab.until(lambda *_: True, "fill.ipynb")["phase"] == "reclaimed"


def looks_in_four_minutes(page: Page, looks: list[str]) -> int:
    """How often the page asks for the status in the four minutes after a look that was asked for, and has ended."""
    command(page, "gpu-reclaim:refresh-status")
    looks.clear()
    page.clock.fast_forward("04:00")
    # Once this is answered, whatever the page asked for before has been heard of.
    page.evaluate("() => fetch('/api').then(reply => reply.text())")
    return len(looks)


def test_each_setting_takes_effect(lab: Lab, page: Page) -> None:
    """Units change at once, and so does how often the page looks."""
    set_preference(page, "units", "decimal")
    expect(row(page, "other.ipynb")).to_contain_text(re.compile(r"\d MB"))
    set_preference(page, "units", "binary")
    expect(row(page, "other.ipynb")).to_contain_text("64.0 MiB")
    set_preference(page, "refreshSeconds", 300)
    looks: list[str] = []
    page.on("request", lambda request: looks.append(request.url) if "/api/status?" in request.url else None)
    # The page has the setting a moment after the answer that brought it: until then it looks as often as before.
    assert 0 in [looks_in_four_minutes(page, looks) for _ in range(3)]
    set_preference(page, "refreshSeconds", 5)
    with page.expect_request(STATUS):
        page.clock.fast_forward("00:06")
