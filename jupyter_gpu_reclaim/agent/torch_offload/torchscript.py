"""What TorchScript holds: its tensors lie in C++, where Python's heap does not show those it has never asked for.

It is looked into only where bytes would stay unexplained otherwise: watching for its modules makes every scan of the
heap slower by a tenth. What is found stays in place, for one reference to each tensor is C++'s, and how many more there
are (copies of a graph, plans of its executor) is not told.
"""

import torch


def module_type():
    """The type whose instances hold scripted, traced and loaded modules."""
    return torch.jit.ScriptModule


def tensors_of(modules):
    """Parameters, buffers and constants of these instances of `module_type()`; submodules are instances themselves."""
    tensors = []
    for module in modules:
        held = object.__getattribute__(module, "__dict__").get("_c")
        if isinstance(held, torch._C.ScriptModule):
            for names in (torch._C.ParameterDict, torch._C.BufferDict):
                tensors.extend(tensor for _, tensor in names(held).items())
            for name in held._method_names():
                tensors.extend(_constants(held._get_method(name).graph))
    return tensors


def _constants(graph):
    for node in graph.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            yield node.t("value")
