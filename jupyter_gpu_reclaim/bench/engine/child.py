"""One row's process: `python -m jupyter_gpu_reclaim.bench.engine.child ROW DEVICE ARGUMENTS`, a JSON object a line out.

Either `{"figure": {…}}` or, last, `{"refused": sentence}`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from jupyter_gpu_reclaim.bench import Refused
from jupyter_gpu_reclaim.bench.engine import copies, cycles, overheads
from jupyter_gpu_reclaim.bench.engine.rig import Rig

ROWS = {
    "copies": copies.figures,
    "whole": cycles.whole,
    "by_hand": cycles.against_by_hand,
    "file": cycles.against_file,
    "small": cycles.small,
    "reclaim": overheads.reclaim,
    "scan": overheads.scan,
}


def main(row: str, device: str, arguments: str) -> None:
    """Measures the row, telling each figure as soon as there is one."""
    try:
        for figure in ROWS[row](Rig(device), **json.loads(arguments)):
            print(json.dumps({"figure": asdict(figure)}), flush=True)
    except Refused as refusal:
        print(json.dumps({"refused": str(refusal)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
