"""A simulated GPU, shipped: one shared board, a torch device and an NVML library over it. Labelled wherever it shows."""
