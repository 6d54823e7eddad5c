"""How a loop over time is run fast; `unroll` chooses among them by its argument `backend`."""
