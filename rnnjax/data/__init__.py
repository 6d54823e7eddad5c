"""Data: numpy and tfds, no cell. One data set a file; here sequences become time-major."""
