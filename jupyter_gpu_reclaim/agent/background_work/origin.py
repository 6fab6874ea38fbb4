"""Where code comes from: the user, a library, the standard library, or a service known to be harmless.

Python code is placed by the file it was compiled from, because `__module__` is copied by every decorator; C code and
classes by the module that they name. Nothing here looks an attribute up on an object of the user's.
"""

import os
import site
import sys
import sysconfig
import types
from collections import namedtuple

USER, LIBRARY, STDLIB, SERVICE = "user", "library", "standard library", "service"

Origin = namedtuple("Origin", "kind module name")  # `name` is a function's or a class's qualified name

# Threads of these never call what a user handed them outside a request, and requests pass the gate. (tornado is not
# one: a thread may run a loop of its.) The last five were never run under this judge, only known by their documents.
SERVICES = (
    "IPython.core.history",
    "debugpy",
    "ipykernel",
    "ipykernel_launcher",
    "multiprocessing.resource_sharer",
    "tensorboard.summary.writer",
    "torch._inductor.compile_worker",
    "tqdm._monitor",
    "zmq",
    "comet_ml",
    "mlflow.system_metrics",
    "neptune",
    "sentry_sdk",
    "wandb",
)

_AGENT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_AGENT_NAME = __name__.rsplit(".", 2)[0]
_SITE_FOLDERS = ("site-packages", "dist-packages")
# What a kernel cannot start without, wherever it was installed (a folder on PYTHONPATH, an editable install).
_KERNEL_PACKAGES = (
    "IPython",
    "comm",
    "debugpy",
    "ipykernel",
    "jupyter_client",
    "nest_asyncio",
    "tornado",
    "traitlets",
    "zmq",
)
_LONGEST = 200  # characters of a name in a sentence
# Descriptors of `type` itself: a metaclass of the user's cannot get between.
_type_module = type.__dict__["__module__"].__get__
_type_name = type.__dict__["__qualname__"].__get__
type_dict = type.__dict__["__dict__"].__get__
mro = type.__dict__["__mro__"].__get__
_module_dict = types.ModuleType.__dict__["__dict__"].__get__


def text(value, otherwise="?"):
    """`value` as a plain str of bounded length, and never through a method of the user's."""
    return str.__str__(value)[:_LONGEST] if issubclass(type(value), str) else otherwise


def class_name(cls):
    """(module, qualified name) of a class."""
    return text(_type_module(cls)), text(_type_name(cls))


def within(module, prefixes):
    """Whether a dotted name is one of `prefixes` or lies below one."""
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def _roots():
    """[(folder, dotted prefix)] of installed packages, and of the standard library."""
    paths = sysconfig.get_paths()
    sites = {paths["purelib"], paths["platlib"]}
    if hasattr(site, "getsitepackages"):  # old virtualenvs bring a `site` of their own
        sites.update((*site.getsitepackages(), site.getusersitepackages()))
    installed = [(folder.rstrip("/") + "/", "") for folder in sites]
    for name in _KERNEL_PACKAGES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            installed.append((os.path.dirname(file) + "/", name + "/"))
    standard = {paths["stdlib"], paths["platstdlib"], os.path.dirname(os.__file__)}
    return installed, [(folder.rstrip("/") + "/", "") for folder in standard]


class Origins:
    """Places code objects, classes and modules; answers are cached by file, for installed code by code object."""

    def __init__(self, harmless_modules=()):
        self._harmless = tuple(harmless_modules)
        self._installed, self._standard = _roots()
        self._by_file = {}
        self._by_code = {}  # id → the code itself, so that its id stays its own, and its origin

    def of_code(self, code, global_names):
        """The origin of a code object that runs with these globals (a plain dict)."""
        known = self._by_code.get(id(code))
        if known is not None:
            return known[1]
        name = getattr(code, "co_qualname", None) or code.co_name  # co_qualname: Python 3.11
        origin = self._named(self._of_file(text(code.co_filename)), global_names.get("__name__"), text(name))
        if origin.kind != USER:  # a user's code is not kept alive
            self._by_code[id(code)] = code, origin
        return origin

    def of_class(self, cls):
        """The origin of a class, by the module it names."""
        return self.of_module(*class_name(cls))

    def of_module(self, module_name, name):
        """The origin of something that only names its module: C code, a class."""
        module_name = text(module_name, "__main__")
        module = sys.modules.get(module_name)
        if issubclass(type(module), types.ModuleType):
            file = _module_dict(module).get("__file__")
            if type(file) is str:
                return self._named(self._of_file(file), module_name, name)
        top = module_name.partition(".")[0]
        if top in sys.builtin_module_names or top in getattr(sys, "stdlib_module_names", ()):
            return Origin(STDLIB, module_name, name)
        if module is None and top != "__main__" and sys.modules.get(top) is not None:
            return self.of_module(top, name)._replace(
                module=module_name
            )  # C code may name a module that is none
        return self._named((USER, None), module_name, name)

    def _named(self, place, global_name, name):
        kind, module = place
        global_name = text(global_name, "code without a module")
        if kind != SERVICE and self._harmless and within(global_name, self._harmless):
            kind = SERVICE
        return Origin(kind, module or global_name, name)

    def _of_file(self, file):
        place = self._by_file.get(file)
        if place is None:
            place = self._by_file[file] = self._place(file)
        return place

    def _place(self, file):
        if file.startswith("<frozen "):
            return STDLIB, file[len("<frozen ") : -1]
        if file.startswith(_AGENT + "/"):
            return SERVICE, _AGENT_NAME
        module = _below(file, self._installed)
        if module is None:
            for folder in _SITE_FOLDERS:
                _, found, rest = file.rpartition("/" + folder + "/")
                if found:
                    module = _dotted(rest)
        if module is not None:
            return SERVICE if within(module, SERVICES + self._harmless) else LIBRARY, module
        module = _below(file, self._standard)
        if module is not None:
            return SERVICE if within(module, SERVICES + self._harmless) else STDLIB, module
        return USER, None


def _below(file, roots):
    for folder, prefix in roots:
        if file.startswith(folder):
            return _dotted(prefix + file[len(folder) :])
    return None


def _dotted(path):
    stem = path[: -len(".py")] if path.endswith(".py") else path.partition(".")[0]
    if stem.startswith("lib-dynload/"):
        stem = stem[len("lib-dynload/") :]
    parts = stem.split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def last(name):
    """The last part of a qualified name; before Python 3.11 code knows no more of its name."""
    return name.rpartition(".")[2]


def says(origin):
    """An origin as words: "train() of __main__"."""
    return origin.name + "() of " + origin.module
