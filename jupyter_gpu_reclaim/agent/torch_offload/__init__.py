"""Moves the storages that torch owns to host memory and back, in two phases each way: prepare, then commit by swap."""
