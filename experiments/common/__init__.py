"""Configuration, command line, cells and training code shared by all experiments."""
