"""Language modeling: data, generation and evaluation of `char_lm` and `word_lm`."""
