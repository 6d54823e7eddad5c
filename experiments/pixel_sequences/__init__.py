"""Images read row by row: data and plots of `experiments.digits`."""
