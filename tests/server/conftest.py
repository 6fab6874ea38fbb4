"""What the server's tests take from all tests."""

from ipykernel6 import ipykernel6  # noqa: F401
