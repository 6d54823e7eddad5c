"""Backends: implementations of the loop over time. Select one with `unroll(..., backend=...)`."""
