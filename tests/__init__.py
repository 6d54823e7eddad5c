"""The tests mirror the library: one concept a file, one law a test."""
