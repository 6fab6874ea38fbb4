"""Which comm messages run no user code at all, so that a reclaimed kernel may answer them and stay reclaimed.

A browser that opens or reloads a notebook asks every widget for its state. With widgets of ipywidgets' own classes
that runs library code only; one user subclass, one user hook on the way, and the message has to pass the gate.
"""

import sys

WIDGET_TARGET, CONTROL_TARGET = "jupyter.widget", "jupyter.widget.control"
STATE_REQUESTS = ("request_state", "request_states")
_WIDGET_LIBRARIES = frozenset(("ipywidgets", "traitlets", "builtins", "typing", "ipython_genutils"))
_HOOK_LIBRARIES = _WIDGET_LIBRARIES | {"IPython", "ipykernel", "matplotlib", "matplotlib_inline"}


def asks_for_state(message_type, content):
    """Whether a comm message only asks what widgets look like: not an act of the user, whoever answers it."""
    if message_type == "comm_msg":
        return _method(content) in STATE_REQUESTS
    return message_type == "comm_open" and content.get("target_name") == CONTROL_TARGET


def runs_library_code_only(shell, message_type, content):
    """Whether handling this comm message cannot reach user code: every class, callback and hook on its way is known."""
    widget_module = sys.modules.get("ipywidgets.widgets.widget")
    comm_package = sys.modules.get("comm")
    if widget_module is None or comm_package is None or not _hooks_are_known(shell):
        return False
    comms = comm_package.get_comm_manager()
    if message_type == "comm_open":
        target = content.get("target_name")
        return target == CONTROL_TARGET and _is_from(comms.targets.get(target), _WIDGET_LIBRARIES)
    comm = comms.comms.get(content.get("comm_id"))
    target = getattr(comm, "target_name", None)
    if message_type == "comm_close":
        return target == CONTROL_TARGET and getattr(comm, "_close_callback", None) is None
    if target not in (WIDGET_TARGET, CONTROL_TARGET) or not _is_from(comm._msg_callback, _WIDGET_LIBRARIES):
        return False
    widgets = widget_module._instances
    if _method(content) == "request_states":
        return all(_is_library_widget(widget) for widget in list(widgets.values()))
    return _method(content) == "request_state" and _is_library_widget(widgets.get(content.get("comm_id")))


def _method(content):
    data = content.get("data")
    return data.get("method") if isinstance(data, dict) else None


def _is_from(function, libraries):
    return (getattr(function, "__module__", None) or "").partition(".")[0] in libraries


def _hooks_are_known(shell):
    """Comm messages trigger these two IPython events, where anybody may have hooked in."""
    hooks = [
        hook for event in ("pre_execute", "post_execute") for hook in shell.events.callbacks.get(event, ())
    ]
    return all(_is_from(hook, _HOOK_LIBRARIES) for hook in hooks)


def _is_library_widget(widget):
    return widget is not None and all(_is_library_class(cls) for cls in type(widget).__mro__)


def _is_library_class(cls):
    """`add_traits()` makes a class on the fly that claims to come from traitlets: hence the look into the module."""
    if not _is_from(cls, _WIDGET_LIBRARIES):
        return False
    found = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls
