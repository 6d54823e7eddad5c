"""Data, image encoder and plots for the image captioning experiment `experiments.caption`."""
