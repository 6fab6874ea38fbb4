"""The hardware: what NVML says of the GPUs, and how much host memory may be taken."""
