"""The pure core: what is known, what may happen next, what to do, and why. Stdlib only; no clock, no I/O, no asyncio."""
