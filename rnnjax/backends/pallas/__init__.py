"""Pallas kernels that run the whole loop over time in one launch, on NVIDIA GPUs and TPUs."""
