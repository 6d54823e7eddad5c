"""Newton's method over time, which computes all steps of a nonlinear cell in parallel."""
