"""What a net hears: its word errors, and a sound with what was said when beneath it."""

from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import DPI

MIN_PROBABILITY = 0.02  # a word that is nowhere likelier than this gets no line


def word_error_scores(words: Sequence[str], examples, decode) -> dict[str, float]:
  """Words wrong for each that was said, and the share of rows that are wholly right.

  Args:
    words: K of them; label k + 1 is the k-th, 0 the blank.
    rows: (log p [T, 1 + K], the labels that are true [U]).
    decode: log p -> labels.
  """
  import jiwer

  written = lambda labels: " ".join(words[k - 1] for k in labels)
  true, found = zip(*((written(labels), written(decode(log_p))) for log_p, labels in examples))
  right = sum(map(str.__eq__, true, found)) / len(true)
  return {"word_error": jiwer.wer(list(true), list(found)), "accuracy": right}


def plot_alignment(path, mel, p, words: Sequence[str], frame_seconds: float, title: str = ""):
  """Draw a spectrogram, and beneath it each word's probability over time. A PNG.

  Args:
    path: where to.
    mel: [T, F], log energies, of which the low pitches come first.
    p: [S, 1 + K], probabilities of the blank, drawn in grey, and of the words.
    words: K of them.
    step: seconds of a frame of mel; p is as long as that.
    title: what stands above.

  Raises:
    ValueError: p has not a column for each word and one for the blank.
  """
  from matplotlib.figure import Figure

  if np.ndim(p) != 2 or p.shape[1] != 1 + len(words):
    raise ValueError(f"p must be [S, {1 + len(words)}]: the blank, and words; got {np.shape(p)}")
  seconds = len(mel) * frame_seconds
  figure = Figure(figsize=(8, 4), dpi=DPI, layout="constrained")
  above, below = figure.subplots(2, 1, sharex=True)
  above.imshow(mel.T, "magma", origin="lower", aspect="auto", extent=(0, seconds, 0, mel.shape[1]))
  above.set(ylabel="mel band", title=title)
  time = (np.arange(len(p)) + 0.5) * seconds / len(p)
  below.plot(time, p[:, 0], color="#b0b5bb", linestyle=":", label="blank")
  for k, word in enumerate(words):
    if p[:, 1 + k].max() > MIN_PROBABILITY:
      below.plot(time, p[:, 1 + k], color=f"C{k % 10}", marker=".", markersize=4, label=word)
  below.set(xlabel="seconds", ylabel="p", xlim=(0, seconds), ylim=(-0.03, 1.03))
  below.spines[["top", "right"]].set_visible(False)
  below.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
  figure.savefig(path, format="png")
