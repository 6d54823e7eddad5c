"""Conversion of weights from and to PyTorch and Keras, and safetensors files."""
