"""Implementations of the loop over time; `unroll` selects one by its argument `backend`."""
