"""Configuration, command line, cells and training that all experiments share."""
