"""The simulated GPU's own tests use the fixtures that it offers to all."""

from simgpu import new_board, sim_board, simgpu_server  # noqa: F401
