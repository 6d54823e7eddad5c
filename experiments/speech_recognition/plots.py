"""Word error rates, and plots of spectrograms with word probabilities over time."""

from collections.abc import Sequence

import numpy as np

from rnnjax.analysis.figures import DPI

MIN_PROBABILITY = 0.02  # only words whose probability exceeds this value at some time are drawn


def word_error_scores(words: Sequence[str], examples, decode) -> dict[str, float]:
  """Return the word error rate and the fraction of utterances that are recognized without error.

  Args:
    words: the K words. Label 0 is the blank; label k + 1 is words[k].
    examples: one pair (log-probabilities [T, 1 + K], true labels [U]) per utterance.
    decode: a function from log-probabilities [T, 1 + K] to labels.
  """
  import jiwer

  def to_text(labels):
    return " ".join(words[k - 1] for k in labels)

  true, decoded = zip(*((to_text(labels), to_text(decode(log_p))) for log_p, labels in examples))
  accuracy = sum(map(str.__eq__, true, decoded)) / len(true)
  return {"word_error": jiwer.wer(list(true), list(decoded)), "accuracy": accuracy}


def plot_alignment(path, mel, p, words: Sequence[str], frame_seconds: float, title: str = ""):
  """Plot a spectrogram and, below it, the probability of each word over time.

  Args:
    path: the PNG file to write.
    mel: the log-mel spectrogram [T, F], low frequencies first.
    p: the probabilities [S, 1 + K] of the blank (gray) and of the words. The S steps cover the same
      time as the T frames.
    words: the K words.
    frame_seconds: the duration of a frame of `mel`, in seconds.
    title: the title of the figure.

  Raises:
    ValueError: p does not have 1 + K columns.
  """
  from matplotlib.figure import Figure

  if np.ndim(p) != 2 or p.shape[1] != 1 + len(words):
    raise ValueError(
      f"p must be [S, {1 + len(words)}], for the blank and the words; got {np.shape(p)}"
    )
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
