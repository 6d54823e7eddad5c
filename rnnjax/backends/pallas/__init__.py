"""Pallas kernels that run the loop over time in one kernel launch, on NVIDIA GPUs and TPUs."""
