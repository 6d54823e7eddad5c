"""Pallas kernels that run the whole recurrence in one launch."""
