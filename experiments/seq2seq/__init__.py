"""Sequence-to-sequence experiments: translate, summarize, pronounce, bottleneck."""
