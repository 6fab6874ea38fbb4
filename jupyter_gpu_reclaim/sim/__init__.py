"""A simulated GPU, shipped: one shared board, a torch device and an NVML library over it. Labelled wherever it shows.

Modules here import each other relatively and the standard library otherwise, so that the folder also works as a package
of its own where jupyter_gpu_reclaim is not installed (see `environment.bootstrap_code`).
"""
