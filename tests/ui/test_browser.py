"""What a person sees and does, in a real browser before a real server with real kernels; only the GPU is simulated."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from browser import Lab, command, open_notebook, open_page, row, run_cell, show_sidebar, wait_for_kernel
from conftest import GPU_BYTES, IDLE_AFTER_SECONDS
from playwright.sync_api import Browser, Page, expect

from jupyter_gpu_reclaim.core.explain import human_bytes
from jupyter_gpu_reclaim.sim.board import Board, MiB

PATIENCE_MS = 60_000
INDICATOR = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-GpuReclaim-toolbar button"
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def page(lab: Lab, chromium: Browser) -> Page:
    """JupyterLab with the sidebar open. What goes wrong in the page fails the test it goes wrong in."""
    page = open_page(chromium, lab, "lab")
    page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
    show_sidebar(page)
    return page


def test_the_demo_notebook_is_kept_then_reclaimed_then_restored(lab: Lab, page: Page) -> None:
    """Kept by keyboard, it outstays its idle time; kept no longer, it is reclaimed in sight; its next cell is right."""
    open_notebook(page, "digits.ipynb")
    row(page, "digits.ipynb").get_by_role("button", name="Keep digits.ipynb on the GPU …").focus()
    page.keyboard.press("Enter")
    page.get_by_role("menuitem", name="For 1 hour").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Keep digits.ipynb no longer")).to_be_visible()
    for cell in (1, 2, 3):
        output = run_cell(page, cell)
    expect(output).to_contain_text("45 steps, loss")

    def is_kept_beyond_its_time(kernel: dict[str, Any], now: datetime) -> bool:
        at = kernel["last_active_at"]
        idle = at is not None and (now - datetime.fromisoformat(at)).total_seconds() > IDLE_AFTER_SECONDS
        return idle and kernel["decision"]["reason"] == "pinned"

    kernel = lab.until(is_kept_beyond_its_time, "digits.ipynb")
    assert kernel["phase"] == "resident"
    expect(row(page, "digits.ipynb", "kept")).to_contain_text(human_bytes(kernel["footprint_bytes"]))
    expect(page.locator(INDICATOR)).to_have_text(f"GPU {human_bytes(kernel['footprint_bytes'])}")

    page.get_by_role("button", name="Keep digits.ipynb no longer").click()
    expect(row(page, "digits.ipynb", "reclaimed")).to_be_visible()
    kernel = lab.until(lambda kernel, _: kernel["phase"] == "reclaimed", "digits.ipynb")
    won_back = human_bytes(kernel["footprint_bytes"])
    expect(row(page, "digits.ipynb")).to_contain_text(won_back)
    expect(row(page, "digits.ipynb")).to_contain_text("safe in host memory")
    expect(page.locator(".jp-GpuReclaim-totals")).to_contain_text(won_back)
    expect(page.locator(INDICATOR)).to_have_text("GPU reclaimed")
    expect(page.locator(".jp-GpuReclaim-spoken")).to_contain_text("digits.ipynb: reclaimed")

    output = run_cell(page, 6)
    expect(output).to_contain_text("accuracy 9")
    assert output.count() == 1


def test_a_waiting_cell_shows_its_place_and_ends_well(lab: Lab, board: Board, page: Page) -> None:
    """With the GPU full, toolbar, status bar and sidebar say who is next and what is short; the output stays clean."""
    open_notebook(page, "fill.ipynb")
    run_cell(page, 0)
    expect(row(page, "fill.ipynb", "reclaimed")).to_be_visible()
    board.set_other_used(GPU_BYTES - 40 * MiB)
    try:
        output = run_cell(page, 1)
        expect(page.locator(INDICATOR)).to_have_text("GPU next in line")
        expect(page.locator(".jp-GpuReclaim-statusbar")).to_have_text("fill.ipynb: next in line")
        expect(row(page, "fill.ipynb", "waiting")).to_contain_text("short")
        assert output.count() == 0
    finally:
        board.set_other_used(0)
    expect(output).to_have_text("True")
    assert output.count() == 1


def test_a_press_reclaims_and_its_undo_restores(lab: Lab, page: Page) -> None:
    """The row's button takes the GPU at once, and the notification's "Undo" brings the data back without a cell."""
    open_notebook(page, "fill.ipynb")
    kernel_id = lab.until(lambda *_: True, "fill.ipynb")["kernel_id"]
    command(page, "gpu-reclaim:keep-notebook", kernelId=kernel_id, seconds=600)
    expect(run_cell(page, 1)).to_have_text("True")
    expect(row(page, "fill.ipynb", "kept")).to_be_visible()
    # The driver shows a cell's work for a while after its end.
    lab.until(lambda kernel, _: kernel["decision"]["reason"] == "pinned", "fill.ipynb")
    page.get_by_role("button", name="Reclaim fill.ipynb now").click()
    expect(row(page, "fill.ipynb", "reclaimed")).to_be_visible()
    told = page.locator(".Toastify__toast").filter(has_text="to host memory")
    told.get_by_role("button", name="Undo").click()
    lab.until(lambda kernel, _: kernel["phase"] == "resident", "fill.ipynb")
    expect(row(page, "fill.ipynb", "resident")).to_be_visible()


def test_the_log_finds_the_episode(page: Page, lab: Lab) -> None:
    """The log lists what happened, narrows to an outcome, opens an episode with each step, exports what it shows."""
    command(page, "gpu-reclaim:show-log")
    log = page.locator(".jp-GpuReclaimLog")
    log.get_by_label("Notebook").select_option(label="digits.ipynb")
    log.get_by_label("Outcome").select_option(label="restored")
    lines = log.locator("tbody tr[data-row]")
    expect(lines.first).to_contain_text("restored")
    lines.last.get_by_role("button").click()
    episode = log.locator(".jp-GpuReclaimLog-episode")
    expect(episode.locator("li strong")).to_have_text(
        ["reclaim begun", "reclaimed", "restore begun", "restored"]
    )
    expect(episode).to_contain_text("freed")
    with page.expect_download() as download:
        log.get_by_role("link", name="JSON Lines").click()
    rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert {(row["label"], row["event"]) for row in rows} == {("digits.ipynb", "restore_done")}
    log.get_by_role("button", name="Show everything").click()
    expect(lines.filter(has_text="kept")).not_to_have_count(0)


def test_a_link_leads_into_the_log(chromium: Browser, lab: Lab) -> None:
    """An address with the log's filters opens the log narrowed by them."""
    page = open_page(chromium, lab, "lab?reset&gpu-reclaim-log=&outcome=failed")
    expect(page.locator(".jp-GpuReclaimLog").get_by_label("Outcome")).to_have_value("failed")
    expect(page.locator(".jp-GpuReclaimLog")).to_contain_text("Nothing has been reclaimed yet")
    page.close()


def test_notebook_7_shows_it_in_the_toolbar(chromium: Browser, lab: Lab) -> None:
    """In Notebook 7, too, the toolbar tells that the notebook was reclaimed, and its next cell is right."""
    page = open_page(chromium, lab, "notebooks/classic.ipynb", (1400, 800))
    wait_for_kernel(page)
    run_cell(page, 0)
    indicator = page.locator(".jp-GpuReclaim-toolbar button")
    expect(indicator).to_have_text("GPU reclaimed")
    expect(run_cell(page, 1)).to_have_text("True")
    page.close()
