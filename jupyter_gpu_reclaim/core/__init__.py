"""The pure core: what is known, what may happen, what to do, and why. Stdlib only; no clock, no I/O, no asyncio."""
