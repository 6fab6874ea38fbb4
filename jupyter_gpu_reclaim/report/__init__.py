"""What the log tells people: `jupyter gpu-reclaim log` and `report`."""
