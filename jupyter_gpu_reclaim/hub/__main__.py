"""`python -m jupyter_gpu_reclaim.hub`: what a Hub, or a container, runs."""

from jupyter_gpu_reclaim.hub.app import main

main()
