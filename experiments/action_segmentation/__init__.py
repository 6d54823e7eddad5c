"""Action segmentation: data, metrics and plots of `experiments.video`."""
