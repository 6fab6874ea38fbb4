"""Runs inside the kernel under test: the judge in a thread that is named as the agent's, asked through a socket.

No cell is needed to ask it, so it judges the kernel as the agent would: idle, between cells.
"""

import importlib.util
import json
import os
import socket
import statistics
import sys
import threading
import time


def load_agent(folder):
    """The agent's package, loaded by its path under the name that the product gives it."""
    name = "_jupyter_gpu_reclaim_agent"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(name + ".background_work")


def serve(kernel, folder, address):
    """Connects to the test and answers its questions until it hangs up."""
    global _module, _kernel
    _module, _kernel = load_agent(folder), kernel
    judge = _module.BackgroundWork(kernel)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    threading.Thread(
        target=_answer, args=(judge, connection.makefile("rw")), name="gpu-reclaim-agent probe", daemon=True
    ).start()


def _answer(judge, stream):
    for line in stream:
        question = json.loads(line)
        answer = _DO[question.pop("do")](judge, **question)
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


def _judge(judge, burst_seconds):
    judge.reset()
    return judge.judge(burst_seconds)


def _cost(judge, samples):
    """Microseconds of each of some samples."""
    taken = []
    for _ in range(samples):
        start = time.perf_counter()
        judge.sample()
        taken.append((time.perf_counter() - start) * 1e6)
    return {"median": statistics.median(taken), "most": max(taken)}


_DO = {
    "judge": _judge,
    "cost": _cost,
    "sample": lambda judge: judge.sample(),
    "reset": lambda judge: judge.reset(),
    "snapshot": lambda judge: judge.snapshot(),
    "vouched": lambda _, modules: _module.BackgroundWork(_kernel, modules).judge(0.05),
    "blind": lambda _: _module.BackgroundWork(object()).judge(0),
}
