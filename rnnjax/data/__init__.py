"""Data pipelines: readers, vocabularies and batches of NumPy arrays. No module here imports a cell.

  Batches        bucketed_batches  sequences, padded and grouped by length
                 bptt_batches      one long text, for truncated backpropagation through time
  Text to ids    vocabulary        words or characters
                 tokenizer         subwords (BPE), words or characters; decodes to text again
                 word_vectors      pretrained embeddings: GloVe and word2vec files
  Features       log_mel           WAV files and log-mel spectrograms
                 standardize       zero mean and unit variance
  Readers        files             plain, gzipped and archived files, with limits on their size
                 tables            CSV, JSON, JSON Lines
                 npy, mat          arrays saved by NumPy and MATLAB
                 labeled_texts     folders of texts with class labels
                 text_pairs        two columns of a table as pairs of texts

Sequences become time-major ([T, B, ...]) here and nowhere else. The data sets themselves are in
`experiments/<family>/data.py`.
"""
