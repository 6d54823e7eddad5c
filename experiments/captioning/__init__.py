"""Image captioning: data, image encoder and plots of `experiments.caption`."""
