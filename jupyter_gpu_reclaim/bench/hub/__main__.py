"""`python -m jupyter_gpu_reclaim.bench.hub SECONDS`: the group `hub` under a longer load."""

import sys

from jupyter_gpu_reclaim import bench
from jupyter_gpu_reclaim.bench.hub import SECONDS, figures

for figure in figures(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS):
    print(bench.line(figure), flush=True)
