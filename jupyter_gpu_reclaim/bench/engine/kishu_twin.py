"""Kishu (PyPI) on a twin in host memory: a script that commits and checks out, one round for each line of stdin.

    python kishu_twin.py COUNT NBYTES       → a JSON line {"seconds": …, "equal": …} a round

The bytes are a list of plain tensors, the best case: Kishu cannot store a module with its optimizer (dill cannot pickle
Adam), and would run the cells that made them again instead.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

FILL = "import torch; state = [torch.arange(number, number + {words}) for number in range({count})]"
CHANGE = "for place in range(len(state)): state[place].add_(1)"


def shell_with_kishu(folder):
    """An IPython shell that Kishu watches, with all its files in `folder`."""
    os.environ.update(
        KISHU_PATH_ROOT=folder, IPYTHONDIR=folder, ENV_KISHU_TEST_MODE="1"
    )  # no front end to save from
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell
    from kishu.jupyterint import KishuForJupyter
    from kishu.notebook_id import NotebookId
    from traitlets.config import Config

    notebook = Path(folder) / "twin.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")]), notebook)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    kishu = KishuForJupyter(NotebookId("twin", notebook, "no kernel"), shell)
    kishu.install_kishu_hooks()
    return shell, kishu


def seconds_of(act):
    """How long it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def round_of(shell, kishu):
    """One commit and one checkout of changed bytes."""
    began = time.perf_counter()
    shell.run_cell(CHANGE).raise_error()  # commits when it has run
    out = time.perf_counter() - began
    expected = [tensor.clone() for tensor in shell.user_ns["state"]]
    out -= seconds_of(lambda: [tensor.add_(0) for tensor in expected])  # what the change itself takes
    commit = kishu._kishu_branch.get_head().commit_id
    shell.run_cell("del state").raise_error()
    back = seconds_of(lambda: kishu.checkout(commit, skip_notebook=True))
    state = shell.user_ns["state"]
    equal = len(state) == len(expected) and all(
        bool((a == b).all()) for a, b in zip(state, expected, strict=True)
    )
    return {"seconds": out + back, "equal": equal}


def main(count, nbytes):
    """Rounds for as long as somebody asks for them; Kishu's own words go to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        shell, kishu = shell_with_kishu(folder)
        shell.run_cell(FILL.format(count=count, words=nbytes // 8)).raise_error()
        for _ in sys.stdin:
            print(json.dumps(round_of(shell, kishu)), file=answers, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
