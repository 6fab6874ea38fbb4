# ruff: noqa: D100 (a docstring here would become the `__doc__` of the user's namespace)
#
# Run by IPython at kernel start, through PYTHONSTARTUP: starts the agent that lies beside this file, then runs the
# user's own startup file. It is executed in the user's namespace and leaves no name there; it never keeps a kernel from
# starting; and it does nothing to a plain Python or IPython that happens to be given a kernel's environment.


def _jupyter_gpu_reclaim_startup():
    namespace = globals()
    this_function = namespace.pop("_jupyter_gpu_reclaim_startup")
    import os
    import sys

    here = os.path.dirname(os.path.abspath(this_function.__code__.co_filename))
    if here in sys.path:  # IPython puts it there while it runs us; the user's imports must not find our files
        sys.path.remove(here)
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None

    def read_invitation():
        """Take our variables out of the environment, so that children of the kernel see the user's own only."""
        import json

        text = os.environ.pop("JUPYTER_GPU_RECLAIM_AGENT", None)
        if text is None:
            return None
        os.environ.pop("PYTHONSTARTUP", None)
        invitation = json.loads(text)
        if invitation.get("pythonstartup"):
            os.environ["PYTHONSTARTUP"] = invitation["pythonstartup"]
        return invitation

    def start_agent(invitation):
        """Load this folder as a package under a private name and start the agent in it."""
        import importlib.util

        name = "_jupyter_gpu_reclaim_agent"
        spec = importlib.util.spec_from_file_location(
            name, os.path.join(here, "__init__.py"), submodule_search_locations=[here]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules[name] = package
        spec.loader.exec_module(package)
        package.start(shell.kernel, invitation)

    invitation = None
    try:
        invitation = read_invitation()
        if invitation and getattr(shell, "kernel", None) is not None:
            start_agent(invitation)
    except BaseException as error:
        # SystemExit included: whatever happened, the kernel starts, only without us
        try:
            shell.kernel.log.warning("jupyter_gpu_reclaim: this kernel starts without its agent: %r", error)
        except Exception:
            sys.__stderr__.write("jupyter_gpu_reclaim: not started: {!r}\n".format(error))

    users_own = (invitation or {}).get("pythonstartup")
    if users_own and os.path.isfile(users_own):
        if shell is not None:
            # as IPython runs it, errors and all
            shell.safe_execfile(users_own, namespace, raise_exceptions=True)
        else:
            with open(users_own, "rb") as source:
                exec(compile(source.read(), users_own, "exec"), namespace)


_jupyter_gpu_reclaim_startup()
