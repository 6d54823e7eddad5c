"""Action segmentation of videos: data, metrics and plots of `experiments.video`."""
