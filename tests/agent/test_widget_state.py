"""A browser that asks reclaimed widgets for their state wakes the kernel only where user code would run."""

from __future__ import annotations

import pytest
from kernel_rig import Rig

CONTROL = "jupyter.widget.control"


@pytest.fixture
def widgets(rig: Rig) -> Rig:
    """A kernel with library widgets only and the control comm open, as after opening a notebook."""
    cell = rig.kernel.run(
        "import ipywidgets\n"
        "ipywidgets.Widget.close_all()\n"
        "slider = ipywidgets.IntSlider(5)\n"
        "panel = ipywidgets.interactive(lambda a: a, a=3)\n"
    )
    assert cell.status == "ok", cell.reply
    open_control(rig)
    return rig


def open_control(rig: Rig) -> None:
    """Open the comm by which a frontend asks for all states."""
    content = {"comm_id": "ctl", "target_name": CONTROL, "data": {}}
    rig.kernel.wait_until_idle(rig.kernel.send("comm_open", content, version="1.0.0"))


def states_of(rig: Rig) -> str:
    """Send the request for all widgets' states; gives its id."""
    return rig.kernel.send("comm_msg", {"comm_id": "ctl", "data": {"method": "request_states"}})


def published_states(rig: Rig, request: str) -> dict:
    """The states published in answer."""
    published = rig.kernel.wait_until_idle(request)
    return next(shown["data"]["states"] for shown in published if shown["msg_type"] == "comm_msg")


def waits(rig: Rig, request: str, seen: int) -> None:
    """The request waits at the gate; then it is let through by a restore."""
    rig.server.wait_for_op("restore_wanted", seen)
    rig.restore()
    rig.kernel.wait_until_idle(request)


def test_library_widgets_answer_while_reclaimed(widgets: Rig) -> None:
    """Opening the control comm and asking for all states, or one, runs library code only: answered, still reclaimed."""
    rig = widgets
    slider = rig.kernel.value("slider.model_id")
    active_at = rig.server.ask("look")["last_active_at"]
    rig.reclaim()
    open_control(rig)
    states = published_states(rig, states_of(rig))
    assert states[slider]["state"]["value"] == 5
    one = rig.kernel.send("comm_msg", {"comm_id": slider, "data": {"method": "request_state"}})
    published = rig.kernel.wait_until_idle(one)
    assert any(shown["msg_type"] == "comm_msg" and shown["data"]["method"] == "update" for shown in published)
    status = rig.server.ask("look")
    assert (status["phase"], status["last_active_at"]) == ("reclaimed", active_at)


def test_moving_a_slider_wakes(widgets: Rig) -> None:
    """An update may call user code: it waits, and then it is applied."""
    rig = widgets
    slider = rig.kernel.value("slider.model_id")
    rig.reclaim()
    seen = len(rig.server.heard)
    data = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    waits(rig, rig.kernel.send("comm_msg", {"comm_id": slider, "data": data}), seen)
    assert rig.kernel.value("slider.value") == 7


USER_CODE = {
    "subclass": """
class Mine(ipywidgets.IntText):
    def get_state(self, *args, **kwargs):
        t.read()
        return super().get_state(*args, **kwargs)
mine = Mine()
""",
    "added trait": """
import traitlets
mine = ipywidgets.IntText()
mine.add_traits(extra=traitlets.Any(1).tag(sync=True, to_json=lambda value, widget: t.read()))
""",
    "hook": """
hook = lambda: t.read()
get_ipython().events.register('pre_execute', hook)
""",
}


@pytest.mark.parametrize("kind", USER_CODE)
def test_user_code_among_widgets_wakes(widgets: Rig, kind: str) -> None:
    """One widget class, one added trait or one hook of the user's, and the request for states waits for the restore."""
    rig = widgets
    cell = rig.kernel.run(USER_CODE[kind])
    assert cell.status == "ok", cell.reply
    rig.reclaim()
    seen = len(rig.server.heard)
    waits(rig, states_of(rig), seen)
    rig.kernel.run(
        "'hook' in globals() and get_ipython().events.unregister('pre_execute', globals().pop('hook'))"
    )
