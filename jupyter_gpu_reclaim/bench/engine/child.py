"""The process that measures rows: `python -m jupyter_gpu_reclaim.bench.engine.child DEVICE '[[row, {arguments}], …]'`.

A JSON object a line comes out: `{"figure": {…}}`, or last `{"refused": sentence}`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from jupyter_gpu_reclaim.bench import Refused
from jupyter_gpu_reclaim.bench.engine import (
    against_kishu,
    copies,
    cycles,
    host_memory,
    mid_training,
    overheads,
    round_trip,
)
from jupyter_gpu_reclaim.bench.engine.rig import Rig

ROWS = {
    "copies": copies.figures,
    "verify": copies.verified,
    "whole": cycles.whole,
    "by_hand": cycles.against_by_hand,
    "file": cycles.against_file,
    "small": cycles.small,
    "reclaim": overheads.reclaim,
    "scan": overheads.scan,
    "kishu": against_kishu.figures,
    "host_memory": host_memory.figures,
    "mid_training": mid_training.figures,
    "round_trip": round_trip.figures,
}


def main(device: str, rows: list[tuple[str, dict[str, Any]]]) -> None:
    """Measures row after row, telling each figure as soon as there is one."""
    rig = Rig(device)
    for row, arguments in rows:
        try:
            for figure in ROWS[row](rig, **arguments):
                print(json.dumps({"figure": asdict(figure)}), flush=True)
        except Refused as refusal:
            print(json.dumps({"refused": f"{row}: {refusal}"}), flush=True)
            return


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
