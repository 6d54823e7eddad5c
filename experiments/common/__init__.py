"""Configuration, command line and training loop that all experiments share."""
