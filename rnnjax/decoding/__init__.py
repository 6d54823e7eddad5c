"""Decoding: autoregressive sampling, beam search, CTC."""
