"""Out and back against Kishu's commit and checkout of the same bytes, on a twin in host memory."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from jupyter_gpu_reclaim.bench import Figure, Refused
from jupyter_gpu_reclaim.bench.engine.copies import words
from jupyter_gpu_reclaim.bench.engine.rig import Rig
from jupyter_gpu_reclaim.bench.engine.witness import GROUP, Witness

TWIN = Path(__file__).with_name("kishu_twin.py")


def figures(rig: Rig, count: int, nbytes: int, rounds: int) -> Iterator[Figure]:
    """Ours ÷ Kishu's, in turn; both are checked to give equal bytes back."""
    name = f"{count * nbytes / 1e6:g} MB in {count} tensors: time ÷ Kishu on a twin in host memory"
    if importlib.util.find_spec("kishu") is None:
        why = "kishu is not installed here; pip install 'jupyter_gpu_reclaim[bench]'"
        yield Figure.unmeasured(GROUP, name, "×", why, at_most=0.1)
        return
    tensors = words(rig, count, nbytes)
    witness = Witness(lambda: tensors)
    rig.cycle()
    samples = []
    command = [sys.executable, str(TWIN), str(count), str(nbytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as twin:
        try:
            for _ in range(rounds):
                witness.stir()
                ours = rig.cycle()
                samples.append(ours / _round_of(twin))
        finally:
            assert twin.stdin is not None
            twin.stdin.close()
    yield witness.proof().figure(name, "×", samples, at_most=0.1)


def _round_of(twin: subprocess.Popen[str]) -> float:
    assert twin.stdin is not None
    assert twin.stdout is not None
    print(file=twin.stdin, flush=True)
    answer = twin.stdout.readline()
    if not answer:
        raise Refused("Kishu's process ended; its last words stand above")
    told = json.loads(answer)
    if not told["equal"]:
        raise Refused("what Kishu brought back is not equal")
    return told["seconds"]
