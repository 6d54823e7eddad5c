"""Decoding loops that feed on their own output: sampling, beam search, CTC."""
