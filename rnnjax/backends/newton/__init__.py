"""Newton's method over time: all steps of a nonlinear cell at once."""
