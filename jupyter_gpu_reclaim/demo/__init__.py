"""The whole way on the simulated GPU, played by a real Jupyter server with real kernels: `jupyter gpu-reclaim demo`."""
