"""Data, text generation and evaluation for the language models `char_lm` and `word_lm`."""
